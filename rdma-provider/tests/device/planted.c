/* Put before libibverbs (LD_PRELOAD) in the second process of a test: faults that a device, or a peer's provider, should never have.
 *
 * PLANTED=receives      requests to receive are taken, and never posted: the peer's notifications find none
 * PLANTED=completions   completion queues are far smaller than was asked for
 * planted_fail_pairs()  all queue pairs there are go to the error state, as if the device had found a fault */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>

#define PAIRS 64
static struct ibv_qp *pairs[PAIRS];
static int count;

static void *real(const char *name)
{
    static void *library;
    if (!library) library = dlopen("libibverbs.so.1", RTLD_NOW);
    return dlsym(library, name);
}
static int planted(const char *fault) { return getenv("PLANTED") && !strcmp(getenv("PLANTED"), fault); }

static int no_receive(struct ibv_srq *srq, struct ibv_recv_wr *first, struct ibv_recv_wr **bad)
{
    (void)srq, (void)first, (void)bad;
    return 0;
}
struct ibv_srq *ibv_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *wish)
{
    struct ibv_srq *(*create)(struct ibv_pd *, struct ibv_srq_init_attr *) = real("ibv_create_srq");
    struct ibv_srq *made = create(pd, wish);
    if (made && planted("receives")) made->context->ops.post_srq_recv = no_receive;
    return made;
}
#undef ibv_create_cq
struct ibv_cq *ibv_create_cq(struct ibv_context *context, int entries, void *own, struct ibv_comp_channel *channel, int vector)
{
    struct ibv_cq *(*create)(struct ibv_context *, int, void *, struct ibv_comp_channel *, int) = real("ibv_create_cq");
    return create(context, planted("completions") ? 7 : entries, own, channel, vector);
}
int ibv_modify_qp(struct ibv_qp *pair, struct ibv_qp_attr *to, int mask)
{
    int (*modify)(struct ibv_qp *, struct ibv_qp_attr *, int) = real("ibv_modify_qp");
    int code = modify(pair, to, mask);
    if (!code && mask & IBV_QP_STATE && to->qp_state == IBV_QPS_RTS && count < PAIRS) pairs[count++] = pair;
    return code;
}
int planted_fail_pairs(void)
{
    int (*modify)(struct ibv_qp *, struct ibv_qp_attr *, int) = real("ibv_modify_qp");
    struct ibv_qp_attr error = { .qp_state = IBV_QPS_ERR };
    int failed = 0;
    for (int i = 0; i < count; i++) failed += !modify(pairs[i], &error, IBV_QP_STATE);
    count = 0;
    return failed;
}
