// The demo page: one or two texts in, the model's answer out.
import { load } from './edgedistil.mjs';

const byId = (id) => document.getElementById(id);

// Task → labels of the two fields, and what is shown. An empty label hides the second field.
const TASKS = {
  'feature-extraction': [
    'Two texts',
    'to compare',
    async (model, first, second) => {
      const [a, b] = await model.embed([first, second]);
      const dot = (x, y) => x.reduce((sum, value, index) => sum + value * y[index], 0);
      const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
      return { cosine, dimension: a.length };
    },
  ],
  'text-classification': [
    'Text',
    'Second text, if the model compares two',
    (model, first, second) => model.classify(...(second ? [first, second] : [first])),
  ],
  'token-classification': ['Text', '', (model, first) => model.spans(first)],
  'question-answering': ['Question', 'Context', (model, first, second) => model.answer(first, second)],
  'fill-mask': ['Text with a mask', '', (model, first) => model.fill(first)],
};

function showForm(model) {
  const [first, second, run] = TASKS[model.task];
  byId('first-label').textContent = first;
  byId('second-label').textContent = second;
  byId('second').hidden = !second;
  const form = document.querySelector('form');
  form.hidden = false;
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const started = performance.now();
    let answer;
    try {
      answer = await run(model, byId('first').value, byId('second').value);
    } catch (error) {
      byId('result').textContent = error.message;
      return;
    }
    const milliseconds = (performance.now() - started).toFixed(1);
    byId('result').textContent = `${JSON.stringify(answer, null, 2)}\n\n${milliseconds} ms`;
  });
}

try {
  const model = await load();
  const threads = crossOriginIsolated
    ? `threads: ${model.threads}`
    : 'one thread: the server does not send the headers of serve.py';
  byId('state').textContent = `${model.task} in ${model.precision}, ${threads}`;
  showForm(model);
} catch (error) {
  byId('state').textContent = error.message;
}
