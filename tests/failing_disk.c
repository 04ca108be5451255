/* A disk that fails when it is told to: loaded into a server (LD_PRELOAD) by test_failing_disk.py.

   Every call that changes something under FAIL_UNDER is counted, in the server as in SQLite, numpy and faiss: making a
   file or folder, writing, syncing, cutting, renaming and removing. The file FAIL_CONTROL is shared with the test,
   which says there which call is to fail, and how. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { KILL = -1, TORN = -2 }; /* instead of an errno: end at once; write the first half, then end */

static struct control {
    int64_t at;      /* the call that fails, counted from 1; 0: none, and none is counted */
    int64_t count;   /* calls so far */
    int64_t how;     /* errno, or KILL or TORN */
    int64_t lasting; /* whether those behind it fail too */
    int64_t n_failed;
    char only[128];  /* such calls alone are counted: "sync /catalog.sqlite3-wal"; "": all */
    char what[256];  /* the first that failed, as above */
} *control;

static const char *under;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAIL_CONTROL");
    under = getenv("FAIL_UNDER");
    if (!path || !under)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        abort();
    close(fd);
    control = mapped;
}

/* Whether this call fails; errno is set then. Does not return where it kills. */
static int fails(const char *call, const char *path) {
    if (!control || !control->at || strncmp(path, under, strlen(under)))
        return 0;
    char what[sizeof control->what] = "";
    snprintf(what, sizeof what, "%s %s", call, path + strlen(under));
    if (*control->only && strcmp(what, control->only))
        return 0;
    int64_t count = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
    int64_t at = control->at;
    if (!at || count < at || (count > at && !control->lasting))
        return 0;
    if (__atomic_add_fetch(&control->n_failed, 1, __ATOMIC_SEQ_CST) == 1)
        memcpy(control->what, what, sizeof what);
    if (control->how == KILL)
        kill(getpid(), SIGKILL);
    errno = control->how > 0 ? (int)control->how : EIO;
    return 1;
}

static int fd_fails(const char *call, int fd) {
    char link[64], path[4096];
    if (!control || !control->at)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(call, path);
}

static const char *absolute(int folder, const char *path, char *into, size_t size) {
    char link[64];
    if (*path == '/')
        return path;
    if (folder == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, into, size - 1);
    if (length < 0)
        return path;
    snprintf(into + length, size - length, "/%s", path);
    return into;
}

static int path_fails(const char *call, int folder, const char *path) {
    char whole[4096];
    return control && control->at && fails(call, absolute(folder, path, whole, sizeof whole));
}

static int torn(void) { return control->how == TORN; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define ON_FD(type, name, parameters, fd, arguments, call)                                                             \
    type name parameters {                                                                                             \
        REAL(name);                                                                                                    \
        return fd_fails(call, fd) ? -1 : real arguments;                                                               \
    }
#define WRITES(name, parameters, half)                                                                                 \
    ssize_t name parameters {                                                                                          \
        REAL(name);                                                                                                    \
        if (!fd_fails("write", fd))                                                                                    \
            return real half(size);                                                                                    \
        if (torn()) {                                                                                                  \
            real half(size / 2);                                                                                       \
            kill(getpid(), SIGKILL);                                                                                   \
        }                                                                                                              \
        return -1;                                                                                                     \
    }
#define ON_PATH(name, parameters, folder, path, arguments, call)                                                       \
    int name parameters {                                                                                              \
        REAL(name);                                                                                                    \
        return path_fails(call, folder, path) ? -1 : real arguments;                                                   \
    }

#define HALF_WRITE(n) (fd, data, n)
#define HALF_PWRITE(n) (fd, data, n, offset)
WRITES(write, (int fd, const void *data, size_t size), HALF_WRITE)
WRITES(pwrite, (int fd, const void *data, size_t size, off_t offset), HALF_PWRITE)
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t offset), HALF_PWRITE)

ON_FD(int, fsync, (int fd), fd, (fd), "sync")
ON_FD(int, fdatasync, (int fd), fd, (fd), "sync")
ON_FD(int, ftruncate, (int fd, off_t size), fd, (fd, size), "cut")
ON_FD(int, ftruncate64, (int fd, off64_t size), fd, (fd, size), "cut")

ON_PATH(rename, (const char *old, const char *new), AT_FDCWD, new, (old, new), "rename")
ON_PATH(renameat, (int from, const char *old, int to, const char *new), to, new, (from, old, to, new), "rename")
ON_PATH(unlink, (const char *path), AT_FDCWD, path, (path), "remove")
ON_PATH(unlinkat, (int folder, const char *path, int flags), folder, path, (folder, path, flags), "remove")
ON_PATH(rmdir, (const char *path), AT_FDCWD, path, (path), "remove")
ON_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, (path, mode), "make")
ON_PATH(mkdirat, (int folder, const char *path, mode_t mode), folder, path, (folder, path, mode), "make")

/* Opening fails where it makes a file, or empties one. */
static int makes(int folder, const char *path, int flags) {
    struct stat found;
    return (flags & O_TRUNC) || ((flags & O_CREAT) && fstatat(folder, path, &found, 0));
}
#define OPENS(name, parameters, folder, arguments)                                                                     \
    int name parameters {                                                                                              \
        REAL(name);                                                                                                    \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;                                              \
        va_end(more);                                                                                                  \
        if (control && control->at && makes(folder, path, flags) && path_fails("make", folder, path))                  \
            return -1;                                                                                                 \
        return real arguments;                                                                                         \
    }
OPENS(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPENS(openat, (int folder, const char *path, int flags, ...), folder, (folder, path, flags, mode))
OPENS(openat64, (int folder, const char *path, int flags, ...), folder, (folder, path, flags, mode))

/* C's own files, as faiss writes them. */
#define FOPENS(name)                                                                                                   \
    FILE *name(const char *path, const char *mode) {                                                                   \
        REAL(name);                                                                                                    \
        return strpbrk(mode, "wa") && path_fails("make", AT_FDCWD, path) ? NULL : real(path, mode);                    \
    }
FOPENS(fopen)
FOPENS(fopen64)

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(fwrite);
    if (!fd_fails("write", fileno(file)))
        return real(data, size, n, file);
    if (torn()) {
        real(data, size, n / 2, file);
        fflush(file);
        kill(getpid(), SIGKILL);
    }
    return 0;
}

/* What was written and is still in memory goes to the disk when the file is closed; where that fails, it is lost. */
int fclose(FILE *file) {
    __typeof__(&fclose) real = (__typeof__(&fclose))dlsym(RTLD_NEXT, "fclose");
    int fd = fileno(file), kept;
    struct stat before;
    if (fd < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY || !fd_fails("write", fd))
        return real(file);
    kept = dup(fd);
    fstat(fd, &before);
    real(file);
    ((__typeof__(&ftruncate))dlsym(RTLD_NEXT, "ftruncate"))(kept, before.st_size);
    close(kept);
    if (torn())
        kill(getpid(), SIGKILL);
    errno = control->how > 0 ? (int)control->how : EIO;
    return EOF;
}
