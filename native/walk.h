/* Directory trees on disk, walked into the records of a layer. */
#ifndef STREAM_IMAGE_WALK_H
#define STREAM_IMAGE_WALK_H

#include "fault.h"
#include "records.h"

/* Append the file at `path` below the records' root (root and path are joined as they
 * are) under the name `path`. A directory comes before its items, these in the order of
 * name_compare(), each with all that is below it. Symbolic links are never followed,
 * and hard links are files of their own. One directory is open at a time, however deep
 * the tree is; the stack grows by a small frame for each level.
 *
 * Fails with FAULT_READ for a file that cannot be read, or whose path has PATH_MAX bytes
 * or more; with FAULT_ENTRY for a file that no layer can hold, such as a socket, or one
 * whose name makes it a whiteout; and with FAULT_MEMORY. The first two name the path on
 * disk. Entries added before the failure stay. */
int walk_tree(struct records *records, const char *path, struct fault *fault);

#endif
