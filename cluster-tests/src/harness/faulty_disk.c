/* Stands between a node and its disk (LD_PRELOAD): the N-th call of a kind on a file below a
 * directory fails, once, as a disk does that is not asked twice; or all from the N-th on are slow.
 * It leaves word of what it did, in a file. FAULTY_DISK says what:
 *
 *     CALLS N WHAT DIRECTORY WORD
 *
 * CALLS is `syncs` or `writes`; WHAT is EIO, ENOSPC, or the milliseconds of a slow call. That
 * sync_file_range fails may be passed over: it makes nothing durable, and is not counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char calls[16], what[16], directory[PATH_MAX], word[PATH_MAX];
static long nth;
static atomic_long count;

__attribute__((constructor)) static void read_order(void) {
    const char *order = getenv("FAULTY_DISK");
    if (!order ||
        sscanf(order, "%15s %ld %15s %4095s %4095s", calls, &nth, what, directory, word) != 5)
        nth = 0;
}

static void leave_word(const char *call, const char *path) {
    int file = open(word, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0)
        return;
    dprintf(file, "%s of %s: %s\n", call, path, what);
    close(file);
}

/* The error of this call; 0: it goes on to the disk, perhaps late. */
static int fault(const char *kind, const char *call, int file) {
    char link[64], path[PATH_MAX];
    if (nth == 0 || strcmp(kind, calls) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t below = strlen(directory);
    if (length < 0 || (size_t)length < below || strncmp(path, directory, below) != 0)
        return 0;
    path[length] = 0;
    /* RocksDB's account of itself, for people: no promise rests on it, and it may be missing. */
    const char *name = strrchr(path, '/');
    if (name && strcmp(name, "/LOG") == 0)
        return 0;
    long turn = atomic_fetch_add(&count, 1) + 1;
    if (turn == nth)
        leave_word(call, path);
    long slow = atol(what);
    if (slow > 0 && turn >= nth)
        usleep(slow * 1000);
    if (slow > 0 || turn != nth)
        return 0;
    return strcmp(what, "ENOSPC") == 0 ? ENOSPC : EIO;
}

#define INSTEAD(kind, type, name, parameters, arguments)                                           \
    type name parameters {                                                                         \
        static type(*_Atomic real) parameters;                                                     \
        int failed = fault(kind, #name, file);                                                     \
        if (failed) {                                                                              \
            errno = failed;                                                                        \
            return -1;                                                                             \
        }                                                                                          \
        if (!real)                                                                                 \
            real = dlsym(RTLD_NEXT, #name);                                                        \
        return real arguments;                                                                     \
    }

INSTEAD("syncs", int, fsync, (int file), (file))
INSTEAD("syncs", int, fdatasync, (int file), (file))
INSTEAD("writes", ssize_t, write, (int file, const void *bytes, size_t length),
        (file, bytes, length))
INSTEAD("writes", ssize_t, pwrite, (int file, const void *bytes, size_t length, off_t at),
        (file, bytes, length, at))
INSTEAD("writes", ssize_t, pwrite64, (int file, const void *bytes, size_t length, off64_t at),
        (file, bytes, length, at))
