// Where the entries of dense matrices go in panels.
#pragma once

#include "batch/packing.h"
#include "batch/panel_qr.h"
#include "common/workspace.h"

namespace jaxqr {

// The part of a dense matrix that lies in the panels; the rest goes to the spare Pack after them,
// or comes from it.
enum class Part { kAll, kUpper, kStrictlyLower };

template <class S>
size_t places_bytes(long rows, long cols) {
  return Workspace::size<Place>(rows * cols * kParts<S>);
}

// The table of a matrix in panels of `height` rows, whose spare Pack has the index `spare`.
template <class S>
__attribute__((noinline)) const Place* panel_places(long rows, long cols, Order order, Part part,
                                                    long height, long spare, Workspace& memory) {
  const BatchPanels<S> panels{nullptr, height};
  const auto slot = [=](long i, long j) {
    const bool kept = part == Part::kAll || (part == Part::kUpper) == (i <= j);
    return kept ? panels.index(i, j) : spare;
  };
  return fill_places<S>(rows, cols, order, slot, memory.take<Place>(rows * cols * kParts<S>));
}

// The table of places for the entries of a vector.
template <class S>
const Place* vector_places(long length, Workspace& memory) {
  Place* place = memory.take<Place>(length * kParts<S>);
  for (long e = 0; e < length * kParts<S>; ++e) place[e] = static_cast<Place>(e);
  return place;
}

}  // namespace jaxqr
