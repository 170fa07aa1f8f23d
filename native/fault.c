#include "fault.h"

#include <string.h>

int fault_set(struct fault *fault, enum fault_kind kind, int errnum)
{
    fault->kind = kind;
    fault->errnum = errnum;
    fault->reason = NULL;
    fault->path[0] = '\0';
    return -1;
}

int fault_at(struct fault *fault, enum fault_kind kind, int errnum, const char *reason,
             const uint8_t *path, size_t length)
{
    fault_set(fault, kind, errnum);
    fault->reason = reason;
    if (length >= sizeof fault->path)
        length = sizeof fault->path - 1;
    memcpy(fault->path, path, length);
    fault->path[length] = '\0';
    return -1;
}
