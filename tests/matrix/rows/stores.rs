//! Databases.

use crate::row::{Both, ROW, Row};

/// With a replica, a snapshot and a rewritten log under load, each by a fork.
pub static REDIS: Row = Row {
    servers: &[
        "exec redis-server --port $PORT --bind 127.0.0.1 --dir . --dbfilename one.rdb --appendonly yes --appendfsync no \
         --appenddirname one --enable-debug-command yes --repl-diskless-sync-delay 0",
        "rm -f two.rdb; exec redis-server --port $PORT2 --bind 127.0.0.1 --dir . --dbfilename two.rdb --save '' \
         --replicaof 127.0.0.1 $PORT --enable-debug-command yes",
    ],
    serves: "redis-cli -p $PORT2 info replication | grep -q master_link_status:up",
    client: r#"
        cli() { redis-cli -p $PORT "$@"; }
        cli flushall
        redis-benchmark -p $PORT -n 20000 -c 20 -P 4 -t set,get,lpush,lrange_100,mset --csv | cut -d, -f1 &
        load=$!
        until cli bgsave | grep -q started; do sleep 0.1; done
        wait $load
        cli debug populate 20000 key 300
        cli bgrewriteaof
        seq 3000 | sed 's/.*/set many:& value:&/' | cli | sort | uniq -c
        until cli info persistence | grep -q aof_rewrite_in_progress:0; do sleep 0.1; done
        cli info persistence | grep -E 'last_(bgsave|bgrewrite)_status' | tr -d '\r'
        # WAIT is for what its own connection has written.
        printf 'set the end\nwait 1 20000\n' | cli
        cli dbsize
        redis-cli -p $PORT2 dbsize
        [ "$(cli debug digest)" = "$(redis-cli -p $PORT2 debug digest)" ]
        cli debug digest"#,
    among_servers: true,
    ..ROW
};

pub static MEMCACHED: Row = Row {
    servers: &["exec memcached -l 127.0.0.1 -p $PORT -U 0 -u root -t 4 -m 256"],
    client: "exec python3 -B $SOURCES/programs/memcached_load.py $PORT 9 30",
    ..ROW
};

/// A process a connection; a table by COPY both ways, transactions on eight connections at once, and a connection each. By hand
/// `TANDEM_MATRIX_ROWS=17000000` copies a gigabyte.
pub static POSTGRESQL: Row = Row {
    once: r#"
        bin=$(dirname "$(ls /usr/lib/postgresql/*/bin/postgres | tail -n1)")
        ln -s "$bin" bin
        mkdir sockets
        [ -z "$UNPRIVILEGED" ] || chmod 777 . sockets
        $UNPRIVILEGED bin/initdb -D data -U bench -A trust --no-sync >/dev/null
        seq ${TANDEM_MATRIX_ROWS:-400000} | sed 's/.*/&\tthe row of number & and a little more of it/' >rows.tsv"#,
    servers: &["exec $UNPRIVILEGED bin/postgres -D data -p $PORT -k $PWD/sockets -F -h 127.0.0.1"],
    serves: "pg_isready -q -h 127.0.0.1 -p $PORT",
    client: r#"
        export PGHOST=127.0.0.1 PGPORT=$PORT PGUSER=bench PGDATABASE=postgres PGOPTIONS='-c client_min_messages=warning'
        psql -qc 'drop table if exists copied; create table copied (number int, text text)'
        psql -c '\copy copied from rows.tsv'
        psql -Atc 'select count(*), sum(number), sum(length(text)) from copied'
        psql -qc '\copy (select * from copied order by number) to stdout' | sha256sum
        sha256sum <rows.tsv
        pgbench -i -q 2>/dev/null
        pgbench -n -c 8 -j 2 -t 100 | grep -E 'processed|failed'
        pgbench -n -S -c 4 -C -t 10 | grep -E 'processed|failed'
        psql -Atc 'select sum(tbalance) = sum(delta) from pgbench_tellers, (select sum(delta) as delta from pgbench_history) x group by x.delta' | wc -l
        psql -c 'select 1/0' || echo "psql: $?""#,
    stop: libc::SIGINT,
    ..ROW
};

/// A thread a connection.
pub static MARIADB: Row = Row {
    once: r#"
        mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$PWD/data" --auth-root-authentication-method=normal \
            --skip-test-db >/dev/null
        seq 200000 | sed 's/.*/&\tthe row of number & and a little more of it/' >rows.tsv"#,
    servers: &[
        "exec mariadbd --no-defaults --user=$(id -un) --datadir=$PWD/data --socket=$PWD/socket --pid-file=$PWD/pid --port=$PORT \
        --bind-address=127.0.0.1 --innodb-flush-log-at-trx-commit=0 --skip-name-resolve",
    ],
    serves: "mariadb-admin --no-defaults -h 127.0.0.1 -P $PORT -u root ping >/dev/null",
    client: r#"
        sql() { mariadb --no-defaults -h 127.0.0.1 -P $PORT -u root --local-infile=1 -N "$@"; }
        sql -e 'drop database if exists d; create database d; create table d.copied (number int primary key, text text)'
        sql d -e "load data local infile 'rows.tsv' into table copied"
        sql d -e 'select count(*), sum(number), sum(length(text)) from copied'
        sql d --quick --raw -e 'select * from copied order by number' | cmp - rows.tsv
        seq 2000 | sed 's/.*/update copied set text = concat(text, "&") where number = &;/' | sql d
        sql d -e 'select md5(group_concat(text order by number)) from copied where number < 3000'
        mariadb-slap --no-defaults -h 127.0.0.1 -P $PORT -u root --concurrency=8 --iterations=2 --auto-generate-sql \
            --auto-generate-sql-load-type=mixed --number-of-queries=800 | grep clients
        sql -e 'select no_such_column' || echo "mariadb: $?""#,
    ..ROW
};

/// Go makes its system calls itself: both ends of every connection are unseen.
pub static ETCD: Row = Row {
    servers: &["rm -rf etcd; exec etcd --data-dir etcd --log-level error --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:$PORT --advertise-client-urls http://127.0.0.1:$PORT \
        --listen-peer-urls http://127.0.0.1:$PORT2 --initial-advertise-peer-urls http://127.0.0.1:$PORT2 \
        --initial-cluster default=http://127.0.0.1:$PORT2"],
    serves: "ETCDCTL_API=3 etcdctl --endpoints=127.0.0.1:$PORT get x >/dev/null 2>&1",
    client: r#"
        export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=127.0.0.1:$PORT
        for n in 1 2 3 4 5; do etcdctl put key$n value$n; done
        head -c 200000 /dev/zero | tr '\0' x | etcdctl put large
        etcdctl get --prefix key
        etcdctl get large | sha256sum
        curl -sS -d '{"key":"a2V5MQ=="}' http://127.0.0.1:$PORT/v3/kv/range | grep -o '"value":"[^"]*"'"#,
    both: Both::Tcp("Go's runtime makes its system calls without libc"),
    ..ROW
};

/// Java, by NIO; its own command as client.
pub static ZOOKEEPER: Row = Row {
    once: r"
        printf 'tickTime=2000\ndataDir=%s/data\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=*\n' $PWD >base.cfg
        mkdir data
        seq 300 | sed 's/.*/create \/node& value-of-&/' >script
        seq 300 | sed 's/.*/get \/node&/' >>script
        seq 300 | sed 's/.*/delete \/node&/' >>script
        echo 'ls /' >>script",
    servers: &[
        "(cat base.cfg; echo clientPort=$PORT) >zoo.cfg; exec java -Xmx128m -cp /etc/zookeeper/conf:/usr/share/java/zookeeper.jar \
        org.apache.zookeeper.server.quorum.QuorumPeerMain zoo.cfg",
    ],
    serves: "[ \"$(printf ruok | socat -t2 - TCP:127.0.0.1:$PORT)\" = imok ]",
    client: "java -Xmx128m -cp /etc/zookeeper/conf:/usr/share/java/zookeeper.jar org.apache.zookeeper.ZooKeeperMain \
        -waitforconnection -server 127.0.0.1:$PORT <script 2>/dev/null | grep -oE 'value-of-[0-9]+|Created .*|\\[zookeeper\\]'",
    both: Both::Carried(50_000),
    ..ROW
};
