/* A stand-in for libnvidia-ml.so.1 with one card. What it does wrong is read from
 * the file MODE at each reading: "hang", "abort", "lost" (the card answers no
 * more), "unloaded" (the driver is gone). With -DOLD it is a library of long ago:
 * it has what a reading cannot do without, under the old names, and nothing more.
 * With -DSTATE="..." it lists the processes of the stand-in for libcuda, cuda.c, with
 * 64 MiB each, while they are on the card. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15 };

static unsigned long long readings;

static int mode(const char *want) {
	char got[32] = "";
	FILE *f = fopen(MODE, "r");
	if (f == NULL) return 0;
	if (fgets(got, sizeof got, f) == NULL) got[0] = 0;
	fclose(f);
	return strcmp(got, want) == 0;
}

static int reading(void) {
	if (mode("abort")) abort();
	while (mode("hang")) {
		FILE *f = fopen(MODE ".hangs", "w"); /* so that a test need not guess */
		if (f != NULL) fclose(f);
		usleep(1000);
	}
	if (mode("lost")) return GPU_IS_LOST;
	if (mode("unloaded")) return DRIVER_NOT_LOADED;
	return SUCCESS;
}

static int text(char *to, unsigned n, const char *s) { snprintf(to, n, "%s", s); return SUCCESS; }

int nvmlDeviceGetUUID(void *d, char *to, unsigned n) { return text(to, n, "GPU-00000000-0000-0000-0000-000000000001"); }

#ifdef OLD
int nvmlInit(void) { return SUCCESS; }
int nvmlDeviceGetCount(unsigned *n) { *n = 1; return SUCCESS; }
int nvmlDeviceGetHandleByIndex(unsigned i, void **d) { *d = &readings; return SUCCESS; }
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m) {
	m[0] = 16ull << 30; m[1] = 15ull << 30; m[2] = 1ull << 30;
	return reading();
}
#else
int nvmlInit_v2(void) { return mode("unloaded") ? DRIVER_NOT_LOADED : SUCCESS; }
const char *nvmlErrorString(int e) { return e == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Some Error"; }
int nvmlSystemGetDriverVersion(char *to, unsigned n) { return text(to, n, "570.86.15"); }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = &readings; return SUCCESS; }
int nvmlDeviceGetName(void *d, char *to, unsigned n) { return text(to, n, "Stand-in"); }
int nvmlDeviceGetUtilizationRates(void *d, unsigned *u) { u[0] = 42; u[1] = 7; return reading(); }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { *mw = 250000; return reading(); }
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) { *mj = 1000 * ++readings; return reading(); }
int nvmlDeviceGetTotalEccErrors(void *d, int type, int counter, unsigned long long *n) { return NOT_SUPPORTED; }
int nvmlDeviceGetMemoryInfo_v2(void *d, void *info) {
	struct { unsigned version; unsigned long long total, reserved, free, used; } *m = info;
	m->total = 80ull << 30; m->used = 20ull << 30;
	return reading();
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *dev, unsigned *n, void *all) {
	struct { unsigned pid; unsigned long long used; unsigned gpu, compute; } *p = all;
#ifdef STATE
	unsigned room = *n, pid;
	struct dirent *e;
	char off[4096], rest[16];
	DIR *d = opendir(STATE);
	for (*n = 0; d != NULL && (e = readdir(d)) != NULL;) {
		if (sscanf(e->d_name, "%u.%15s", &pid, rest) != 2 || strcmp(rest, "state") != 0) continue;
		snprintf(off, sizeof off, STATE "/%u.off", pid);
		if (access(off, F_OK) == 0) continue;
		if (*n < room) { p[*n].pid = pid; p[*n].used = 64 << 20; }
		++*n;
	}
	if (d != NULL) closedir(d);
	return *n > room ? INSUFFICIENT_SIZE : reading();
#endif
	if (*n < 1) { *n = 1; return INSUFFICIENT_SIZE; }
	*n = 1; p->pid = 4242; p->used = ~0ull;
	return reading();
}
int nvmlDeviceGetSupportedEventTypes(void *d, unsigned long long *types) { *types = 8; return SUCCESS; }
int nvmlDeviceRegisterEvents(void *d, unsigned long long types, void *set) { return SUCCESS; }
int nvmlEventSetCreate(void **set) { *set = &readings; return SUCCESS; }
int nvmlEventSetWait_v2(void *set, void *data, unsigned ms) {
	static int told;
	struct { void *d; unsigned long long type, data; unsigned gpu, compute; } *e = data;
	if (told++) { usleep(1000 * ms); return TIMEOUT; }
	e->d = &readings; e->type = 8; e->data = 79;
	return SUCCESS;
}
#endif
