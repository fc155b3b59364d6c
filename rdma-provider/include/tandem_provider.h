/*
 * The boundary between the switch (libtandem.so) and a SAN provider that it loads as a plug-in.
 *
 * The plug-in exports one function, tandem_provider_open. Each side gives the other a table that begins with its version and its
 * size. Versions must be equal; a table may be longer than the other side knows (functions are only ever added at the end), never
 * shorter. All functions return 0 or a negative errno, unless said otherwise, and never block, except close_companion.
 *
 * One-sided in spirit: the stream above it knows rings, offsets and credit; a provider moves bytes into the peer's memory, in
 * order on one companion, and says when they have landed.
 *
 * The Rust form is rdma-provider/src/lib.rs; a test compares the two, field by field.
 */
#ifndef TANDEM_PROVIDER_H
#define TANDEM_PROVIDER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TANDEM_PROVIDER_VERSION 1
#define TANDEM_PROVIDER_ENTRY "tandem_provider_open"
#define TANDEM_BLOB_BYTES 240

/* One companion; the plug-in's own. */
struct tandem_companion;

/* IPv4 in the first four bytes; bytes and port in network order. */
struct tandem_address {
    uint16_t family;
    uint16_t port;
    uint32_t scope;
    uint8_t bytes[16];
};

/* What one end's plug-in must tell the other's before they can connect (a GID, a queue pair number, keys); policyd carries it. */
struct tandem_blob {
    uint32_t used;
    uint32_t reserved;
    uint8_t bytes[TANDEM_BLOB_BYTES];
};

/* Memory that puts go from or to. The id names it in puts; the peer learns its id by the stream's own messages. */
struct tandem_memory {
    uint64_t id;
    uint64_t bytes;
};

/* The receiver's sleeper is to be told when this put has landed. */
#define TANDEM_PUT_NOTIFY 1u

struct tandem_put {
    uint64_t local_memory;
    uint64_t local_offset;
    uint64_t remote_memory;
    uint64_t remote_offset;
    uint32_t bytes;
    uint32_t flags;
    /* Comes back in the completion. */
    uint64_t token;
};

#define TANDEM_LANDED 0u   /* a put of ours is in the peer's memory */
#define TANDEM_NOTIFIED 1u /* the peer has notified us */
#define TANDEM_DEAD 2u     /* the companion has failed: status says how, nothing more will land */

struct tandem_completion {
    uint32_t kind;
    int32_t status;
    uint64_t token;
};

/* What the switch gives the plug-in. It outlives every companion. */
struct tandem_host {
    uint32_t version;
    uint32_t size;
    void *context;
    /* The only way for a plug-in to say anything: never by stdout or stderr. Level 1 error to 5 trace; the text has no NUL. */
    void (*log)(void *context, uint32_t level, const char *text, size_t bytes);
    /* Moves a descriptor of the plug-in's out of the application's sight and numbers; returns the new number. */
    int32_t (*hide)(void *context, int32_t descriptor);
    /* Closes a hidden descriptor. */
    void (*close_hidden)(void *context, int32_t descriptor);
};

/* What the plug-in gives the switch. Calls for one companion come from one thread at a time. */
struct tandem_provider {
    uint32_t version;
    uint32_t size;
    void *context;
    /* The provider's name in `tandem ss`, e.g. "verbs". */
    const char *name;
    /* 1: a device of this provider serves connections of this local address; 0: none does. */
    int32_t (*serves)(void *context, const struct tandem_address *local);

    /* A companion's life. */
    int32_t (*create)(void *context, struct tandem_companion **companion);
    int32_t (*bind)(struct tandem_companion *companion, const struct tandem_address *local, const struct tandem_address *remote);
    /* -ENOPROTOOPT: the option has no meaning here that is known to be right, so there will be no companion. */
    int32_t (*set_option)(struct tandem_companion *companion, int32_t level, int32_t name, const void *value, uint32_t bytes);
    int32_t (*endpoint)(struct tandem_companion *companion, struct tandem_blob *own);
    /* Starts; poll says TANDEM_DEAD if it fails. The path counts as proven when a first put has landed. */
    int32_t (*connect)(struct tandem_companion *companion, const struct tandem_blob *remote);
    /* After it nothing lands in memory registered for this companion. May wait for the device. */
    void (*close_companion)(struct tandem_companion *companion);

    /* The six operations that the stream is written above. */
    int32_t (*register_memory)(struct tandem_companion *companion, void *base, uint64_t bytes, struct tandem_memory *memory);
    /* -EAGAIN: as many puts are under way as the companion takes; poll makes room. */
    int32_t (*put)(struct tandem_companion *companion, const struct tandem_put *put);
    /* Tells the peer's sleeper, with no bytes: in order behind every put before it. */
    int32_t (*notify)(struct tandem_companion *companion);
    /* Returns how many completions it wrote, at most `room`. */
    int32_t (*poll)(struct tandem_companion *companion, struct tandem_completion *completions, uint32_t room);
    /* The next completion makes the wake descriptor readable. Poll again after it, before sleeping. */
    int32_t (*arm)(struct tandem_companion *companion);
    /* The descriptor that a sleeper waits on; hidden, and the companion's own until it is closed. */
    int32_t (*wake)(struct tandem_companion *companion, int32_t *descriptor);
};

/* NULL: the host's table is of another version, or there is no device. The table lives as long as the plug-in is loaded. */
const struct tandem_provider *tandem_provider_open(const struct tandem_host *host);

#ifdef __cplusplus
}
#endif

#endif
