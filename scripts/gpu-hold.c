/* Holds memory of the first card and proves that its contents survive: a process of
 * CUDA's without an engine, for scripts/gpu-check. It needs no CUDA toolkit to build
 * (cc gpu-hold.c -ldl): the driver's library is loaded when it runs.
 *
 *	gpu-hold MEBIBYTES BASE
 *
 * writes its pid to BASE.held when it holds the memory. Whenever BASE.check appears it reads
 * everything back and writes what it found to BASE.checked: "ok" or what is wrong. It
 * ends with its parent. */
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PIECE ((size_t)16 << 20)

typedef unsigned long long address; /* CUdeviceptr */

static void *lib;
static int (*to_card)(address, const void *, size_t);
static int (*from_card)(void *, address, size_t);

static void *symbol(const char *name) {
	void *f = dlsym(lib, name);
	if (f == NULL) {
		fprintf(stderr, "gpu-hold: libcuda.so.1 lacks %s\n", name);
		exit(1);
	}
	return f;
}

static void must(const char *what, int result) {
	if (result == 0) return;
	fprintf(stderr, "gpu-hold: %s: CUDA error %d\n", what, result);
	exit(1);
}

/* fill makes a piece's contents from its number, each word another (xorshift64). */
static void fill(uint64_t *words, size_t piece) {
	uint64_t x = 0x9e3779b97f4a7c15ull * (piece + 1);
	for (size_t i = 0; i < PIECE / sizeof *words; i++) {
		x ^= x << 13; x ^= x >> 7; x ^= x << 17;
		words[i] = x;
	}
}

static void say(const char *base, const char *suffix, const char *text) {
	char next[4096], name[4096];
	snprintf(next, sizeof next, "%s.%s.next", base, suffix);
	snprintf(name, sizeof name, "%s.%s", base, suffix);
	FILE *f = fopen(next, "w");
	if (f == NULL || fprintf(f, "%s\n", text) < 0 || fclose(f) != 0 || rename(next, name) != 0) {
		perror("gpu-hold: write");
		exit(1);
	}
}

int main(int argc, char **argv) {
	long mebibytes = argc == 3 ? atol(argv[1]) : 0;
	if (mebibytes < 16 || mebibytes % 16 != 0) {
		fprintf(stderr, "usage: gpu-hold MEBIBYTES BASE (a multiple of 16)\n");
		return 2;
	}
	const char *base = argv[2];
	pid_t parent = getppid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if ((lib = dlopen("libcuda.so.1", RTLD_NOW)) == NULL) {
		fprintf(stderr, "gpu-hold: %s\n", dlerror());
		return 1;
	}
	int (*init)(unsigned) = symbol("cuInit");
	int (*device)(int *, int) = symbol("cuDeviceGet");
	int (*retain)(void **, int) = symbol("cuDevicePrimaryCtxRetain");
	int (*use)(void *) = symbol("cuCtxSetCurrent");
	int (*allocate)(address *, size_t) = symbol("cuMemAlloc_v2");
	to_card = symbol("cuMemcpyHtoD_v2");
	from_card = symbol("cuMemcpyDtoH_v2");

	int card;
	void *context;
	address at;
	must("cuInit", init(0));
	must("cuDeviceGet", device(&card, 0));
	must("cuDevicePrimaryCtxRetain", retain(&context, card));
	must("cuCtxSetCurrent", use(context));
	must("cuMemAlloc", allocate(&at, (size_t)mebibytes << 20));

	size_t pieces = ((size_t)mebibytes << 20) / PIECE;
	uint64_t *want = malloc(PIECE), *got = malloc(PIECE);
	if (want == NULL || got == NULL) return 1;
	for (size_t p = 0; p < pieces; p++) {
		fill(want, p);
		must("cuMemcpyHtoD", to_card(at + p * PIECE, want, PIECE));
	}
	char pid[32];
	snprintf(pid, sizeof pid, "%d", (int)getpid());
	say(base, "held", pid);

	char order[4096];
	snprintf(order, sizeof order, "%s.check", base);
	for (; getppid() == parent; usleep(20000)) {
		if (unlink(order) != 0) continue;
		char found[64] = "ok";
		for (size_t p = 0; p < pieces; p++) {
			fill(want, p);
			int r = from_card(got, at + p * PIECE, PIECE);
			if (r != 0) {
				snprintf(found, sizeof found, "piece %zu: CUDA error %d", p, r);
				break;
			}
			if (memcmp(want, got, PIECE) != 0) {
				snprintf(found, sizeof found, "piece %zu is not what was written", p);
				break;
			}
		}
		say(base, "checked", found);
	}
	return 0;
}
