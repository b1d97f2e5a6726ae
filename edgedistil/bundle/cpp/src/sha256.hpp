// The SHA-256 digest of a file.
#pragma once

#include <string>

namespace edgedistil {

// Returns the digest in hexadecimal digits. Throws std::runtime_error if the file cannot be read.
std::string sha256_of_file(const std::string& path);

}  // namespace edgedistil
