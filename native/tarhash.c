#include "tarhash.h"

#include "entries.h"
#include "header.h"
#include "writer.h"

#include <errno.h>
#include <string.h>

/* ---- exceptions --------------------------------------------------------- */

PyObject *tarhash_raise(const struct tarhash_state *state, const struct fault *fault)
{
    PyObject *path = NULL;

    switch (fault->kind) {
    case FAULT_MEMORY:
        return PyErr_NoMemory();
    case FAULT_THREAD:
        PyErr_SetString(state->thread_error, strerror(fault->errnum));
        return NULL;
    case FAULT_CRYPTO:
        PyErr_SetString(PyExc_RuntimeError, "libcrypto could not compute SHA-256");
        return NULL;
    case FAULT_STATE:
        PyErr_SetString(PyExc_ValueError,
                        "begin_hash(), end_hash() or digest() out of turn");
        return NULL;
    case FAULT_WRITE:
        errno = fault->errnum;
        return PyErr_SetFromErrno(PyExc_OSError);
    case FAULT_READ:
        path = PyBytes_FromString(fault->path);
        if (path) {
            errno = fault->errnum;
            PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
        }
        break;
    case FAULT_ENTRY:
        path = Py_BuildValue("(ys)", fault->path, fault->reason);
        if (path)
            PyErr_SetObject(state->entry_error, path);
        break;
    case FAULT_INTERRUPTED: /* a signal handler has set its exception */
    case FAULT_NONE:
        break;
    }
    Py_XDECREF(path);
    return NULL;
}

int tarhash_claim(int *busy)
{
    if (*busy) {
        PyErr_SetString(PyExc_RuntimeError, "in use by another thread");
        return -1;
    }
    *busy = 1;
    return 0;
}

int tarhash_to_uint64(PyObject *number, void *result)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    if (value == (unsigned long long)-1 && PyErr_Occurred())
        return 0;
    *(uint64_t *)result = value;
    return 1;
}

int tarhash_check_length(Py_ssize_t length)
{
    if (length <= 1 << 30)
        return 0;
    PyErr_SetString(PyExc_ValueError, "a name or link target of more than 1 GiB");
    return -1;
}

/* ---- encode_header ------------------------------------------------------ */

enum { MAX_DEVICE = 07777777 }; /* what a header's field holds */
static const uint64_t MAX_GNU_ID = ((uint64_t)1 << 56) - 1;

PyDoc_STRVAR(encode_header_doc,
"encode_header(name, mode, size, mtime, *, link=b'', typeflag=b'0', uid=0, gid=0,\n"
"              uname=b'', gname=b'', device=(0, 0), records=b'', gnu=False)\n--\n\n"
"Return the header blocks (bytes) of one member. `records` are additional PAX\n"
"records, encoded. `gnu` selects GNU tar's own format, in which these are the only\n"
"PAX records, and uname and gname are ignored.");

static PyObject *encode_header(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name", "mode", "size", "mtime", "link", "typeflag", "uid",
                               "gid", "uname", "gname", "device", "records", "gnu", NULL};
    const struct tarhash_state *state = PyModule_GetState(module);
    struct header_entry entry = {.typeflag = '0'};
    struct header_stamp stamp;
    struct fault fault;
    const char *name, *link = "", *records = "", *uname = "", *gname = "";
    Py_ssize_t name_length, link_length = 0, records_length = 0;
    uint64_t uid = 0, gid = 0, major = 0, minor = 0;
    long long mtime;
    int mode, gnu = 0;
    PyObject *header = NULL;

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "y#iO&L|$y#cO&O&yy(O&O&)y#p:encode_header", keywords, &name,
            &name_length, &mode, tarhash_to_uint64, &entry.size, &mtime, &link,
            &link_length, (char *)&entry.typeflag, tarhash_to_uint64, &uid,
            tarhash_to_uint64, &gid, &uname, &gname, tarhash_to_uint64, &major,
            tarhash_to_uint64, &minor, &records, &records_length, &gnu) ||
        tarhash_check_length(name_length) < 0 || tarhash_check_length(link_length) < 0 ||
        tarhash_check_length(records_length) < 0)
        return NULL;
    if (major > MAX_DEVICE || minor > MAX_DEVICE) {
        PyErr_SetString(PyExc_ValueError, "a device number that no tar can hold");
        return NULL;
    }
    if (gnu && (uid > MAX_GNU_ID || gid > MAX_GNU_ID)) {
        PyErr_SetString(PyExc_ValueError, "an owner's number that no tar can hold");
        return NULL;
    }
    entry.mode = (uint16_t)(mode & 07777);
    entry.name = (const uint8_t *)name;
    entry.name_length = (uint32_t)name_length;
    entry.link = (const uint8_t *)link;
    entry.link_length = (uint32_t)link_length;
    if (gnu)
        header_init_gnu(&stamp, mtime, uid, gid);
    else if (header_init(&stamp, mtime, uid, gid, uname, gname, &fault) < 0)
        return tarhash_raise(state, &fault);
    if (entry.typeflag == '3' || entry.typeflag == '4')
        header_set_device(&stamp, (uint32_t)major, (uint32_t)minor);
    if (header_add_records(&stamp, (const uint8_t *)records, (size_t)records_length,
                           &fault) < 0) {
        tarhash_raise(state, &fault);
        goto done;
    }
    header = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)header_size(&stamp, &entry));
    if (header)
        header_encode(&stamp, &entry, (uint8_t *)PyBytes_AsString(header));
done:
    header_free(&stamp);
    return header;
}

/* ---- the module --------------------------------------------------------- */

static PyMethodDef module_methods[] = {
    {"encode_header", (PyCFunction)(void (*)(void))encode_header,
     METH_VARARGS | METH_KEYWORDS, encode_header_doc},
    {NULL, NULL, 0, NULL},
};

/* Make a type and add it to the module. Returns a new reference, or NULL. */
static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}

static int module_exec(PyObject *module)
{
    struct tarhash_state *state = PyModule_GetState(module);

    state->entry_error = PyErr_NewExceptionWithDoc(
        "stream._tarhash.EntryError",
        "A file that cannot be written as an entry: arguments path (bytes) and reason.",
        NULL, NULL);
    if (!state->entry_error ||
        PyModule_AddObjectRef(module, "EntryError", state->entry_error) < 0)
        return -1;
    state->thread_error = PyErr_NewExceptionWithDoc(
        "stream._tarhash.ThreadError", "A thread that the system does not start.",
        PyExc_RuntimeError, NULL);
    if (!state->thread_error ||
        PyModule_AddObjectRef(module, "ThreadError", state->thread_error) < 0)
        return -1;
    state->entries_type = add_type(module, &entries_spec);
    if (!state->entries_type)
        return -1;
    PyTypeObject *writer_type = add_type(module, &writer_spec);
    if (!writer_type)
        return -1;
    Py_DECREF(writer_type);
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct tarhash_state *state = PyModule_GetState(module);
    Py_VISIT(state->entry_error);
    Py_VISIT(state->thread_error);
    Py_VISIT(state->entries_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    struct tarhash_state *state = PyModule_GetState(module);
    Py_CLEAR(state->entry_error);
    Py_CLEAR(state->thread_error);
    Py_CLEAR(state->entries_type);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "stream._tarhash",
    .m_doc = "Tar entries from directory trees, written and hashed in one pass.",
    .m_size = sizeof(struct tarhash_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__tarhash(void)
{
    return PyModuleDef_Init(&module_definition);
}
