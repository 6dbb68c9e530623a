// The best instruction set of the processor, as a tiny library of its own: it is compiled for every
// processor, so that nobody has to run kernels, which may be compiled for a better one, to find
// out.
//
// The builds of the kernels are for the levels that the x86-64 ABI defines, and a compiler may use
// all that a level has: so all of it is looked for.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers processor_info(unsigned leaf) {
  Registers r;
  if (!__get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
  return r;
}

// Which registers the operating system saves for a thread.
unsigned saved_registers() {
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool has(unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; }

int level() {
  const Registers basic = processor_info(1), more = processor_info(7);
  const Registers extended = processor_info(0x80000001);
  constexpr unsigned of_basic = bit_FMA | bit_MOVBE | bit_OSXSAVE | bit_AVX | bit_F16C;
  constexpr unsigned of_more = bit_BMI | bit_AVX2 | bit_BMI2;
  constexpr unsigned lzcnt = 1u << 5;  // of `extended`; compilers name it in different ways
  if (!has(basic.ecx, of_basic) || !has(more.ebx, of_more) || !has(extended.ecx, lzcnt)) return 0;
  const unsigned saved = saved_registers();
  if (!has(saved, 0x6)) return 0;  // the vectors of SSE and AVX
  constexpr unsigned wide = bit_AVX512F | bit_AVX512DQ | bit_AVX512CD | bit_AVX512BW | bit_AVX512VL;
  return has(more.ebx, wide) && has(saved, 0xe6) ? 2 : 1;
}

#else

int level() { return 0; }

#endif

}  // namespace

// 0 for the baseline (x86-64-v2), 1 for AVX2 (x86-64-v3), 2 for AVX-512 (x86-64-v4).
extern "C" __attribute__((visibility("default"))) int jaxqr_instruction_set() { return level(); }
