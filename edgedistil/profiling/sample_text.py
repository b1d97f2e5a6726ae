"""A little English of our own, for a model that is profiled without a run and without --text."""

SAMPLE_TEXT = """\
The boat left the harbour before sunrise and met the first swell beyond the breakwater.
Two engineers measured the bridge in winter, when the steel was at its shortest, and again in August.
My grandmother kept a notebook in which she wrote the price of bread on the first day of every month.
A good knife is sharpened often and a little, not rarely and for an hour.
The committee could not agree on a date, so it agreed on a place and left the date to chance.
After three days of rain the river had climbed over the lower road, and the school bus took the long way round.
She plays the cello in the evenings; the neighbours have stopped complaining and begun to ask for their favourites.
Nobody reads the manual until the machine stops, and by then the manual is in the machine.
The library opens at nine, the museum at ten, and the bakery whenever the bread is done.
His first novel sold four hundred copies, most of them to people who had mistaken it for a cookbook.
The train was late again, which surprised only the tourists.
Children learn the names of dinosaurs long before they learn the names of the trees in front of their house.
The prices of copper and of houses rose together that year, and economists still argue about which pulled the other.
A cat was asleep on the warm bonnet of the delivery van, and the driver waited until it woke up.
The doctor listened for a long time, said little, and wrote a prescription for walking.
When the lights went out, the whole street came outside to see whether it was only them.
The new bridge carries twice the traffic of the old one and has half as many admirers.
Snow fell on the vineyards in April, and the growers lit fires between the rows to save the buds.
The orchestra tuned, the hall went quiet, and somewhere in the third row a telephone began to sing.
They bought the cheapest tent in the shop and learned in one night what the others would have given them.
An old map hangs in the hall; it shows a lake that was drained before anyone now alive was born.
The results were clear, the explanation was not, and the report was printed with both.
He repairs radios that nobody makes any more for people who do not want any other.
The film is too long by half an hour, but the half hour that is too long is different for everyone.
"""
