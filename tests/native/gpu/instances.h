// The kernels that are in this build, by their names.
#pragma once

#include <map>
#include <string>

#include "gpu/arguments.h"

namespace emulate {

struct Instance {
  unsigned threads;  // the most that a block may have
  void (*kernel)(jaxqr::Arguments);
};

inline std::map<std::string, Instance>& instances() {
  static std::map<std::string, Instance> all;
  return all;
}

inline bool add_instance(const char* name, Instance instance) {
  return instances().emplace(name, instance).second;
}

}  // namespace emulate
