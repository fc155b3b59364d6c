//! Logins, files, forking relays.

use crate::row::{Both, ROW, Row};

/// sshd runs itself anew for each connection, with the socket among its descriptors, and filters its own system calls.
pub static SSH: Row = Row {
    once: r#"
        chmod 700 .
        ssh-keygen -q -t ed25519 -N '' -f host
        ssh-keygen -q -t ed25519 -N '' -f user
        cp user.pub authorized
        [ "$(id -u)" != 0 ] || mkdir -p -m 755 /run/sshd
        printf 'ListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nStrictModes no\nPrintMotd no\nPrintLastLog no\nSubsystem sftp internal-sftp\n' \
            $PWD/host $PWD/authorized >sshd_config
        printf 'IdentityFile %s\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n' $PWD/user >ssh_config
        seq 2000000 >many"#,
    servers: &["exec /usr/sbin/sshd -D -e -p $PORT -f $PWD/sshd_config"],
    client: r#"
        ssh="ssh -F ssh_config -p $PORT 127.0.0.1"
        $ssh 'echo hello; echo error >&2; exit 7' || echo "ssh: $?"
        $ssh sha256sum <many
        $ssh "cat $PWD/many" | sha256sum
        scp -q -F ssh_config -P $PORT many 127.0.0.1:$PWD/copy && cmp many copy && rm copy
        scp -q -F ssh_config -P $PORT 127.0.0.1:$PWD/many back && cmp many back && rm back
        for n in 1 2 3; do echo $n; done | $ssh 'while read n; do echo got $n; done'"#,
    both: Both::Tcp("sshd hands the socket to a new sshd by exec"),
    ..ROW
};

/// A process a connection; up, down, a second time with little changed.
pub static RSYNC: Row = Row {
    once: r#"
        mkdir module tree
        for n in $(seq 200); do seq $n $((n * 40)) >tree/$n; done
        seq 1500000 >tree/large
        printf 'use chroot = no\nlog file = /dev/null\n[module]\npath = %s/module\nread only = no\nuid = %s\ngid = %s\n' $PWD $(id -u) $(id -g) >rsyncd.conf"#,
    servers: &["exec rsync --daemon --no-detach --address=127.0.0.1 --port=$PORT --config=rsyncd.conf"],
    client: r#"
        module=rsync://127.0.0.1:$PORT/module
        rm -rf module/* down
        rsync -a tree $module
        diff -r tree module/tree
        (cat tree/large; echo more) >module/tree/large
        rsync -a --stats $module/tree/ down/ | grep -E 'Number of (regular files transferred|files)|Literal data'
        diff -r module/tree down && echo same
        rsync -a --checksum --itemize-changes $module/tree/ tree2/ | wc -l
        rm -rf tree2
        rsync $module/none . 2>&1 | grep -o 'No such file or directory' || true"#,
    both: Both::Perhaps("two processes hold the receiver's socket, as soon as there are files to send"),
    ..ROW
};

/// git daemon gives each connection to a new process, as its stdin and stdout.
pub static GIT_DAEMON: Row = Row {
    once: r#"
        export GIT_AUTHOR_DATE='2026-01-01 00:00 +0000' GIT_COMMITTER_DATE='2026-01-01 00:00 +0000'
        git config --global user.name Somebody; git config --global user.email somebody@example.org
        git config --global init.defaultBranch main; git config --global advice.detachedHead false
        git config --global safe.directory '*'
        mkdir served; git init -q --bare served/repository
        git init -q work
        for n in 1 2 3 4 5 6; do
            seq ${n}00000 >work/file; openssl enc -aes-128-ctr -nosalt -K 0$n -iv 0 </dev/zero 2>/dev/null | head -c 1000000 >work/noise
            git -C work add .; git -C work commit -qm "commit $n"
        done
        git -C work push -q ../served/repository main"#,
    servers: &[
        "exec git daemon --listen=127.0.0.1 --port=$PORT --base-path=served --export-all --enable=receive-pack --reuseaddr",
    ],
    client: r#"
        from=git://127.0.0.1:$PORT/repository
        rm -rf clone
        git clone -q $from clone
        git -C clone log --format='%h %s'
        git -C clone fsck --no-progress
        seq 300000 >clone/new; git -C clone add new; GIT_AUTHOR_DATE='2026-01-02 00:00 +0000' GIT_COMMITTER_DATE='2026-01-02 00:00 +0000' git -C clone commit -qm new
        git -C clone push -q -f origin main:other-$(git -C clone rev-parse --short HEAD)
        git ls-remote $from
        git clone -q git://127.0.0.1:$PORT/none 2>&1 | grep -c 'not exported' || true"#,
    both: Both::Tcp("git daemon hands the socket to a new program, as its stdin and stdout"),
    ..ROW
};

/// A process a connection, and for each a program at a socket of its own.
pub static SOCAT: Row = Row {
    once: "seq 3000000 >many",
    servers: &["exec socat TCP-LISTEN:$PORT,bind=127.0.0.1,reuseaddr,fork EXEC:cat"],
    client: r#"
        (for n in 1 2 3 4 5; do cat many; done) | socat -t 60 - TCP:127.0.0.1:$PORT | sha256sum
        for n in 1 2 3 4 5 6; do (head -c ${n}000000 many | socat -t 60 - TCP:127.0.0.1:$PORT | sha256sum >$n.sum) & done
        wait
        cat *.sum"#,
    ..ROW
};
