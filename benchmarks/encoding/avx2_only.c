/* Hide AVX-512, AMX and VNNI from a program, as if the processor had AVX2 only.
 *
 * Environment variables limit torch and oneDNN, but ONNX Runtime reads the instruction CPUID. On Linux, processors with
 * cpuid_fault (/proc/cpuinfo) let a process trap that instruction; the handler answers it without the flags.
 *
 *     gcc -O2 -shared -fPIC -o avx2_only.so benchmarks/encoding/avx2_only.c
 *     LD_PRELOAD=./avx2_only.so python -m benchmarks.encode --runtimes
 *
 * KEEP_AVX_VNNI=1 leaves AVX-VNNI, the dot products of 8-bit integers in 256 bits. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static int keep_vnni;

static void allow_cpuid(unsigned long allowed) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void answer_cpuid(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned char *instruction = (unsigned char *)registers[REG_RIP];
  if (info->si_code != SI_KERNEL || instruction[0] != 0x0f || instruction[1] != 0xa2) {
    signal(number, SIG_DFL); /* a real fault: it happens again, without this handler */
    return;
  }
  unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
  allow_cpuid(1);
  __cpuid_count(leaf, subleaf, a, b, c, d);
  allow_cpuid(0);
  if (leaf == 7 && subleaf == 0) {
    b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX-512 */
    c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);                                    /* AVX-512 */
    d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);               /* AVX-512, AMX */
  }
  if (leaf == 7 && subleaf == 1) {
    a &= ~(1u << 5 | 1u << 21 | 1u << 23 | (keep_vnni ? 0 : 1u << 4));
    d &= ~(1u << 4 | 1u << 5 | 1u << 10 | 1u << 19);
  }
  registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
  struct sigaction action;
  keep_vnni = getenv("KEEP_AVX_VNNI") != NULL;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer_cpuid;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, NULL);
  allow_cpuid(0);
}
