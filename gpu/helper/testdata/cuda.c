/* A stand-in for libcuda.so.1: no CUDA, no card. The "processes" are files in the
 * directory STATE: PID.state holds CUprocessState's number, and a pid without such a
 * file is no process of CUDA's. Each call is a line of STATE/calls. What goes wrong is
 * read from STATE/trouble at each call: lines of "WHAT CALL PID", WHAT being "fail",
 * "hang", "abort", "broken" (it fails, and the process is in the state FAILED), and
 * CALL a call's last word in lower case, PID or 0 for any. A process that is off the card has a file
 * STATE/PID.off, which the stand-in for NVML knows, too.
 *
 * -DVERSION=12040 is an older driver's number, -DOLD a driver without the calls,
 * -DNOINIT one that finds no card. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 12080
#endif

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_DEVICE = 100, ILLEGAL_STATE = 401, NOT_SUPPORTED = 801 };
enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };

int cuGetErrorName(int e, const char **name) {
	switch (e) {
	case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; return SUCCESS;
	case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; return SUCCESS;
	case ILLEGAL_STATE: *name = "CUDA_ERROR_ILLEGAL_STATE"; return SUCCESS;
	case NOT_SUPPORTED: *name = "CUDA_ERROR_NOT_SUPPORTED"; return SUCCESS;
	}
	return INVALID_VALUE;
}

static const char *path(int pid, const char *suffix) {
	static char p[4096];
	snprintf(p, sizeof p, "%s/%d.%s", STATE, pid, suffix);
	return p;
}

static int get(int pid, int *state) {
	FILE *f = fopen(path(pid, "state"), "r");
	if (f == NULL) return INVALID_VALUE;
	int n = fscanf(f, "%d", state);
	fclose(f);
	return n == 1 ? SUCCESS : INVALID_VALUE;
}

static void set(int pid, int state) {
	FILE *f = fopen(path(pid, "state"), "w");
	fprintf(f, "%d", state);
	fclose(f);
	if (state == CHECKPOINTED) {
		fclose(fopen(path(pid, "off"), "w"));
	} else if (state != FAILED) {
		unlink(path(pid, "off"));
	}
}

static int trouble(const char *what, const char *call, int pid) {
	char w[32], c[32];
	int p, found = 0;
	FILE *f = fopen(STATE "/trouble", "r");
	if (f == NULL) return 0;
	while (fscanf(f, "%31s %31s %d", w, c, &p) == 3)
		if (!strcmp(w, what) && !strcmp(c, call) && (p == 0 || p == pid)) found = 1;
	fclose(f);
	return found;
}

static int called(const char *call, int pid, const void *args) {
	unsigned words[16] = {0};
	if (args != NULL) memcpy(words, args, sizeof words);
	FILE *f = fopen(STATE "/calls", "a");
	fprintf(f, "%s %d", call, pid);
	if (words[0]) fprintf(f, " within %u ms", words[0]);
	for (int i = 1; i < 16; i++) if (words[i]) fprintf(f, " with rubbish");
	fprintf(f, "\n");
	fclose(f);
	if (trouble("abort", call, pid)) abort();
	while (trouble("hang", call, pid)) usleep(1000);
	if (trouble("broken", call, pid)) { set(pid, FAILED); return NOT_SUPPORTED; }
	return trouble("fail", call, pid) ? NOT_SUPPORTED : SUCCESS;
}

int cuDriverGetVersion(int *v) { *v = VERSION; return SUCCESS; }
int cuInit(unsigned flags) {
	while (trouble("hang", "open", 0)) {
		fclose(fopen(STATE "/opening", "w"));
		usleep(1000);
	}
#ifdef NOINIT
	return NO_DEVICE;
#endif
	return SUCCESS;
}

#ifndef OLD
static int move(const char *call, int pid, const void *args, int from, int to) {
	int state, r = called(call, pid, args);
	if (r != SUCCESS) return r;
	if ((r = get(pid, &state)) != SUCCESS) return r;
	if (state != from) return ILLEGAL_STATE;
	set(pid, to);
	return SUCCESS;
}

int cuCheckpointProcessGetState(int pid, int *state) {
	int r = called("state", pid, NULL);
	return r != SUCCESS ? r : get(pid, state);
}
int cuCheckpointProcessLock(int pid, void *a) { return move("lock", pid, a, RUNNING, LOCKED); }
int cuCheckpointProcessCheckpoint(int pid, void *a) { return move("checkpoint", pid, a, LOCKED, CHECKPOINTED); }
int cuCheckpointProcessRestore(int pid, void *a) { return move("restore", pid, a, CHECKPOINTED, LOCKED); }
#ifndef NOUNLOCK
int cuCheckpointProcessUnlock(int pid, void *a) { return move("unlock", pid, a, LOCKED, RUNNING); }
#endif
#endif

/* What a process does that holds memory: it is one of CUDA's from its context on. */
int cuDeviceGet(int *device, int n) { *device = n; return SUCCESS; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = context; return SUCCESS; }
int cuCtxSetCurrent(void *context) { set(getpid(), RUNNING); return SUCCESS; }
int cuMemAlloc_v2(unsigned long long *at, size_t n) { *at = (unsigned long long)malloc(n); return *at ? SUCCESS : 2; }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t n) { memcpy((void *)to, from, n); return SUCCESS; }
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t n) { memcpy(to, (void *)from, n); return SUCCESS; }
