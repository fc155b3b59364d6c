/* Signals to the main thread of a program while it sleeps in the call under test. */
static _Atomic int caught;
static void count_signal(int signal) { atomic_fetch_add(&caught, 1); }
static pid_t main_tid;
static pthread_t main_thread;

static void this_is_main(void)
{
    main_tid = syscall(SYS_gettid);
    main_thread = pthread_self();
}
static void set_action(int signal, int flags)
{
    struct sigaction action = { .sa_handler = count_signal, .sa_flags = flags };
    need(sigaction(signal, &action, NULL));
}
static void main_sleeps(void) { wait_state(getpid(), main_tid, 'S'); }

/* The thread that kicks takes no signal itself. */
static void take_no_signal(void)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}
/* Sends the signal when the main thread sleeps, and waits until it is caught. */
static void kick_main(int signal)
{
    main_sleeps();
    int before = caught;
    pthread_kill(main_thread, signal);
    wait_changed(&caught, before);
}
