/*
 * The boundary between the switch (libtandem.so) and a SAN provider, a plug-in that it loads.
 *
 * A provider moves bytes into the memory of a peer process, in order on each companion, and says when they have landed and when
 * the peer has told it something. It knows no stream, no socket and no epoll set; the switch knows no queue pair. Each gives the
 * other a table of functions and, for every object, a value of its own: the provider a handle, the switch a cookie.
 *
 * Installing one: a shared object NAME.so in the folder tandem-providers beside libtandem.so that exports tandem_provider_open and whose
 * table says that name: 1 to 15 of a-z, 0-9, '_' and '-', a letter first. (verbs alone is libtandem_rdma.so, beside libtandem.so.) Move
 * it there whole, by rename. Which of the host's addresses it serves policyd reads from providers.d/NAME.toml beside its configuration,
 *     addresses = ["192.0.2.1", "2001:db8::1"]
 * whenever that changes; an address has one provider, and a file goes before a device that has the address too. Programs that run already
 * find it when they next want a companion. Both ends of a companion must have the provider of one name. `tandem check` loads it and
 * says what it finds. It needs no more than this header. The Rust form is the crate tandem-provider (rdma-provider/boundary),
 * whose tests compile this file and compare the two, field by field and type by type; its documentation shows how the words and rings
 * of a stream lie above these calls.
 *
 * Versions. Both tables begin with version and size. Versions must be equal; a table may be longer than the other side knows
 * (functions are only ever added at the end), never shorter. The open function says no to a host of another version by NULL.
 *
 * Errors. Every function that returns int32_t returns 0 or more for success, and a negative errno for failure: never -1 with errno,
 * never a positive errno. errno itself is left as it was. What fails later is told by poll, as the status of a completion, in the
 * same form. The ones with a meaning of their own:
 *     -EAGAIN      as much is under way as may be, or an answer is not there yet; nothing of the call was done
 *     -EPIPE       the companion is dead, as poll has said or will say
 *     -ECHILD      this process is a forked child of the one that made the handle; see "Processes"
 *     -ENODEV      no device serves the address, or the device has gone
 *     -ENOPROTOOPT the option has no row in the provider's table
 *     -ENOMEM, -ENOBUFS, -EPERM  locked memory, objects or entries of the device, or rights are used up or wanting
 *
 * Blocking. Only stop, find, list and check may wait; each says for what. All that a device may be slow at (opening it, registering
 * memory, making, connecting and destroying queue pairs: milliseconds, and a second where a neighbour is to be found) is only ordered by the
 * call, done by the provider's one thread, and told by poll. While that thread is stopped, orders wait.
 *
 * Threads. Every function may be called from any thread at any time, different objects and the same one; the provider locks for
 * itself, briefly, never across anything that waits. Between put, notify and fetch on one companion the order of the calls is the order of
 * landing. poll of one queue is done by one thread at a time: another that comes meanwhile waits until that is done, so that whoever
 * was given less than there was room for knows of all that had happened before. No handle may be used once close was called for it.
 *
 * Signals. Nothing here is async-signal-safe: a handler that may have interrupted one of these calls on its own thread must not make
 * another (the switch's locks know that). No call is a point of cancellation. The provider's thread has all signals blocked and takes
 * none. The provider changes no signal's disposition.
 *
 * Processes. A device belongs to the process that opened it. A forked child may go on reading the memory it shares with its parent, and
 * must call nothing on the parent's handles: each call answers -ECHILD there and does nothing, and what the provider had open
 * is closed in the child before fork returns to it. To have companions of its own, the child calls tandem_provider_open again. A child
 * by vfork is its parent as far as can be told here: no call may be made in one. The parent
 * notices nothing of a fork. Memory to be registered must be MAP_SHARED, so that no copy-on-write parts it from the device, and no
 * hole (MADV_DONTFORK) is made in it for children. Before exec nothing is needed. Before unshare(CLONE_NEWUSER), setns and what else wants
 * a process without a second thread: stop, and start afterwards. After a change of credentials (setuid, seteuid, in one thread or all)
 * the kernel may refuse a put: the companion dies with -EACCES, and a new domain opens the device with the rights of whoever asks for it.
 *
 * Memory. Handles are the provider's; structures in arguments are the caller's and not kept. Registered memory stays the
 * switch's: it must stay mapped until poll has told that it is released.
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

/* The endpoint of a companion as its peer's provider needs it. */
#define TANDEM_BLOB_BYTES 240
/* A region of memory as the peer's provider needs it. */
#define TANDEM_SHARE_BYTES 40
/* At most so many bytes in one put, so many puts in one call, so many bytes that are not in registered memory. */
#define TANDEM_PUT_BYTES (1u << 20)
#define TANDEM_PUTS 8u
#define TANDEM_IMMEDIATE_BYTES 64u
/* A note's bits: what a notification carries. */
#define TANDEM_NOTE_BITS 31u

/* The process's end of a device's completions: what sleepers sleep on and pollers poll. One a process will do. */
struct tandem_queue;
/* What one peer process may reach: memory, and the companions that lead there. Nothing of one domain is reached from another. */
struct tandem_domain;
/* One end of a path between two processes, beside one TCP connection. */
struct tandem_companion;

/* AF_INET: the first four bytes, the rest zero. Bytes and port in network order; scope is sin6_scope_id. */
struct tandem_address {
    uint16_t family;
    uint16_t port;
    uint32_t scope;
    uint8_t bytes[16];
};

/* Opaque to the switch, which carries it to the other end. The other end's provider trusts no bit of it. */
struct tandem_blob {
    uint32_t used;
    uint32_t reserved;
    uint8_t bytes[TANDEM_BLOB_BYTES];
};

/* The same, for memory. */
struct tandem_share {
    uint8_t bytes[TANDEM_SHARE_BYTES];
};

/* What the peer may do with memory that is shared with it. Without any, memory is only a source for puts. */
#define TANDEM_PEER_PUTS 1u
#define TANDEM_PEER_FETCHES 2u

/* Put: local bytes go to the peer's memory. Fetch: the peer's come here. */
#define TANDEM_PUT 0u
#define TANDEM_FETCH 1u

/* poll tells when this put, and with it every one before, has landed. */
#define TANDEM_REPORT 1u
/* The peer's poll tells, once this put has landed, that it has been notified, and the note. */
#define TANDEM_NOTIFY 2u
/* The bytes are at `immediate`, not in registered memory: TANDEM_IMMEDIATE_BYTES at most, and free again when put returns. */
#define TANDEM_IMMEDIATE 4u

struct tandem_put {
    uint32_t kind;
    uint32_t flags;
    /* What register_memory and adopt_share gave. */
    uint32_t local;
    uint32_t remote;
    uint64_t local_offset;
    uint64_t remote_offset;
    const void *immediate;
    uint32_t bytes;
    /* With TANDEM_NOTIFY. */
    uint32_t note;
    /* With TANDEM_REPORT: comes back in the completion. */
    uint64_t token;
};

/* Kinds of completions, and what `cookie` names: Q the queue, D a domain, M memory, C a companion. */
#define TANDEM_READY 1u      /* D: its device is open, or why not; once more when that has gone. M: it is registered, or why not. C: endpoint has an answer, or why not */
#define TANDEM_CONNECTED 2u  /* C: puts may be made, or why not. That they arrive, the first one shows that is reported */
#define TANDEM_LANDED 3u     /* C: the put with this token, and all before it, are in the peer's memory (a fetch: in ours) */
#define TANDEM_NOTIFIED 4u   /* C: the peer has notified; see poll */
#define TANDEM_DEAD 5u       /* C: nothing of ours lands any more, for the reason in status; close is all that is left. What the peer
                                had notified before may still be told until then: poll once more before close */
#define TANDEM_CLOSED 6u     /* D, M, C: the last completion of the object; nothing lands through it, its memory may be unmapped */
#define TANDEM_CHANGED 7u    /* Q: a device or an address has come or gone: what list and find say may be new */
#define TANDEM_ROOM 8u       /* C: put has said -EAGAIN, and would now take puts again */

struct tandem_completion {
    uint32_t kind;
    int32_t status;
    uint64_t cookie;
    uint64_t token;
    uint32_t note;
    uint32_t reserved;
};

/* One address that a device of the provider serves, for the SAN subnet table and for `tandem check`. */
struct tandem_served {
    struct tandem_address address;
    /* 1: companions can be made there now; 0: the port is down. */
    uint32_t usable;
    uint32_t mtu;
    /* Device and port, e.g. "rxe0/1", ended by NUL. */
    char device[56];
};

/* What the switch gives the provider. It outlives everything; its functions may be called from any thread, the provider's own too. */
struct tandem_host {
    uint32_t version;
    uint32_t size;
    void *context;
    /* The only way to say anything: never by stdout or stderr. Level 1 error to 5 trace; the text has no NUL and no newline. */
    void (*log)(void *context, uint32_t level, const char *text, size_t bytes);
    /* Moves a descriptor out of the application's numbers and sight, CLOEXEC: the new number, or a negative errno and the
     * descriptor is closed. Device libraries go on using it: read, write, ioctl and mmap of the number must work as ever, in any
     * thread. Who closes, copies, polls or watches it is the provider alone, by libc's functions themselves. */
    int32_t (*hide)(void *context, int32_t descriptor);
    /* Closes a hidden descriptor; async-signal-safe, and safe in a forked child. */
    void (*close_hidden)(void *context, int32_t descriptor);
};

struct tandem_provider {
    uint32_t version;
    uint32_t size;
    void *context;
    /* As it stands in `tandem ss`, e.g. "verbs", and in the file's name. */
    const char *name;

    /* ---- What there is ---- */

    /* 1: a device serves connections of this local address; -ENODEV: none does. Reads sysfs, milliseconds, at most once a second
     * and after a change; else only memory. */
    int32_t (*find)(void *context, const struct tandem_address *local);
    /* Writes what is served now, at most `room` entries, and returns how many there are. Reads sysfs: milliseconds. */
    int32_t (*list)(void *context, struct tandem_served *served, uint32_t room);
    /* What this host and process have and lack, each with its remedy, one line at a time. Opens devices. Returns how many lines speak of
     * something that is wanting. */
    int32_t (*check)(void *context, void *argument, void (*line)(void *argument, const char *text, size_t bytes));
    /* Ends the provider's thread, and returns when it is gone: at once, or after the order it is at, a second at most. Bytes go
     * on moving without it; orders, and what devices tell, wait for start. */
    int32_t (*stop)(void *context);
    int32_t (*start)(void *context);

    /* ---- The queue: poll, arm, wake ---- */

    int32_t (*open_queue)(void *context, uint64_t cookie, struct tandem_queue **queue);
    /* Once all of its domains are closed (-EBUSY before). */
    int32_t (*close_queue)(struct tandem_queue *queue);
    /* Takes what has happened, oldest first on each companion, and returns how many completions were written, at most `room`. No system
     * call when nothing has. A notification tells: all that the peer had put on this companion before it notified has landed. Several
     * may become one with the last one's note, so notes only ever grow (modulo their bits). None is ever lost for want of polling. */
    int32_t (*poll)(struct tandem_queue *queue, struct tandem_completion *completions, uint32_t room);
    /* The next completion makes the wake descriptor readable; what came before may not. So: arm, poll until it gives nothing, sleep.
     * One thread arms and sleeps for all; it hands on to the others what is theirs. */
    int32_t (*arm)(struct tandem_queue *queue);
    /* The descriptor to sleep on: hidden, readable (level) while something waits, the queue's own; not to be read. */
    int32_t (*wake)(struct tandem_queue *queue);

    /* ---- A domain: register memory, share, adopt ---- */

    /* For the device that serves `local`. READY follows; the calls below may be made before it, and fail with it. When the device
     * has gone, or a companion has died with -EACCES, the domain makes none any more (READY with -ENODEV): close it, open another. */
    int32_t (*open_domain)(struct tandem_queue *queue, const struct tandem_address *local, uint64_t cookie, struct tandem_domain **domain);
    /* Once its companions are closed (-EBUSY before); its memory is released with it. CLOSED follows. */
    int32_t (*close_domain)(struct tandem_domain *domain);
    /* `base` and `bytes` at page boundaries, MAP_SHARED; `rights` for the peer. READY follows, and from then on the memory is locked
     * in core. Gives the number for `local` in puts. */
    int32_t (*register_memory)(struct tandem_domain *domain, void *base, uint64_t bytes, uint32_t rights, uint64_t cookie, uint32_t *memory);
    /* CLOSED follows. The peer's puts there kill the companions that they come by. */
    int32_t (*release_memory)(struct tandem_domain *domain, uint32_t memory);
    /* After READY. */
    int32_t (*share)(struct tandem_domain *domain, uint32_t memory, struct tandem_share *share);
    /* The other end's memory. Gives the number for `remote` in puts, and how large it is: -EINVAL for what cannot be. */
    int32_t (*adopt_share)(struct tandem_domain *domain, const struct tandem_share *share, uint32_t *remote, uint64_t *bytes);
    int32_t (*drop_share)(struct tandem_domain *domain, uint32_t remote);

    /* ---- A companion's life: create, bind, set option, connect, close ---- */

    int32_t (*create)(struct tandem_domain *domain, uint64_t cookie, struct tandem_companion **companion);
    /* The TCP connection's own addresses and ports; the provider translates them (verbs: a GID, a flow label) and sees to it that the
     * other end's are the same ones, mirrored. -EADDRNOTAVAIL: the domain's device does not serve it. */
    int32_t (*bind)(struct tandem_companion *companion, const struct tandem_address *local, const struct tandem_address *remote);
    /* As for setsockopt, before prepare; -EISCONN after it. Every option that the application has set is replayed. */
    int32_t (*set_option)(struct tandem_companion *companion, int32_t level, int32_t name, const void *value, uint32_t bytes);
    /* After bind and the options. READY follows. */
    int32_t (*prepare)(struct tandem_companion *companion);
    /* After READY. */
    int32_t (*endpoint)(struct tandem_companion *companion, struct tandem_blob *own);
    /* CONNECTED follows. -EINVAL, -EPROTO, -EADDRNOTAVAIL: the blob cannot be, is of another version, is of another connection. */
    int32_t (*connect)(struct tandem_companion *companion, const struct tandem_blob *peer);
    /* At any time. CLOSED follows, and until then the peer's puts may land. Nothing is flushed: who cares waits for LANDED. */
    int32_t (*close)(struct tandem_companion *companion);
    /* Both ends in the provider's own terms, for `tandem ss`, e.g. "rxe0/1 ::ffff:10.0.0.1 qp 17 > ::ffff:10.0.0.2 qp 18, mtu 4096":
     * writes at most `room` bytes, no NUL, and returns how many. */
    int32_t (*describe)(struct tandem_companion *companion, char *text, uint32_t room);

    /* ---- Moving bytes: put, notify ---- */

    /* All of them, in this order, or none. From CONNECTED on. The bytes must stay as they are until they have landed, but for immediate ones.
     * -EAGAIN: poll; ROOM follows when there is room again. -EINVAL: outside of the memory named. */
    int32_t (*put)(struct tandem_companion *companion, const struct tandem_put *puts, uint32_t count);
    /* A notification without bytes, in order behind all puts. */
    int32_t (*notify)(struct tandem_companion *companion, uint32_t note);
};

/* NULL: the host's table is of another version, or this process cannot have the provider at all (which is logged). In a process that has
 * it open already, the same table. The table lives as long as the process. */
const struct tandem_provider *tandem_provider_open(const struct tandem_host *host);

#ifdef __cplusplus
}
#endif

#endif
