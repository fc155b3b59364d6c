//! Servers, proxies and clients of HTTP and TLS.

use crate::row::{Both, ROW, Row};

/// Files to serve, a certificate, and what nginx wants of every configuration.
macro_rules! site {
    ($($more:literal),*) => {
        concat!(
            r#"
            mkdir www logs tmp
            printf x >www/1B; head -c 20000 /dev/zero | tr '\0' y >www/20kB
            openssl enc -aes-128-ctr -nosalt -K 0 -iv 0 </dev/zero 2>/dev/null | head -c 30000000 >www/30MB
            openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
                -keyout key.pem -out cert.pem -days 9 2>/dev/null
            temporary=$(for kind in client_body proxy fastcgi uwsgi scgi; do echo "${kind}_temp_path $PWD/tmp/$kind;"; done)
            head="user $(id -un); error_log $PWD/logs/error.log warn; events { worker_connections 512; }"
            "#,
            $($more),*
        )
    };
}

/// Two workers; sendfile; TLS; an upstream with keep-alive connections, itself under Tandem.
pub static NGINX: Row = Row {
    once: site!(
        r#"
        echo "$head worker_processes 1; pid $PWD/back.pid; http { access_log off; $temporary keepalive_requests 100000;
            server { listen 127.0.0.1:PORT1; root $PWD/www; } }" >back.in
        echo "$head worker_processes 2; pid $PWD/front.pid; http { access_log off; $temporary sendfile on; tcp_nopush on;
            upstream back { server 127.0.0.1:PORT1; keepalive 8; }
            server { listen 127.0.0.1:PORT2; listen 127.0.0.1:PORT3 ssl; root $PWD/www;
                ssl_certificate $PWD/cert.pem; ssl_certificate_key $PWD/key.pem;
                location /back/ { proxy_pass http://back/; proxy_http_version 1.1; proxy_set_header Connection ''; } } }" >front.in"#
    ),
    servers: &[
        "sed s/PORT1/$PORT/ back.in >back.conf; exec nginx -p $PWD -c $PWD/back.conf -g 'daemon off;'",
        "sed s/PORT1/$PORT/ front.in | sed s/PORT2/$PORT2/ | sed s/PORT3/$PORT3/ >front.conf
         exec nginx -p $PWD -c $PWD/front.conf -g 'daemon off;'",
    ],
    client: r#"
        get() { curl -sS --no-progress-meter --fail --cacert cert.pem "$@"; }
        for from in http://127.0.0.1:$PORT2 http://127.0.0.1:$PORT2/back https://127.0.0.1:$PORT3 https://127.0.0.1:$PORT3/back; do
            get $from/30MB | sha256sum
            get -w '%{http_code} %{num_connects}\n' $(for n in 1 2 3 4 5 6; do echo $from/1B $from/20kB; done) | sha256sum
            get -r 100-20000099 $from/30MB | sha256sum
            get $from/none || echo "curl: $?"
        done
        get --parallel --parallel-max 10 -o '#1.got' "http://127.0.0.1:$PORT2/back/20kB?[1-60]"
        cat *.got | sha256sum
        rm -f *.got
        cat logs/error.log | grep -E 'alert|crit' || true"#,
    stop: libc::SIGQUIT,
    among_servers: true,
    ..ROW
};

/// Two threads; HTTP with keep-alive on both sides, and a plain TCP relay that may splice.
pub static HAPROXY: Row = Row {
    once: site!(
        r#"
        echo "$head worker_processes 1; pid $PWD/back.pid; http { access_log off; $temporary
            server { listen 127.0.0.1:PORT1; root $PWD/www; } }" >back.in
        cat >haproxy.in <<'EOF'
global
    nbthread 2
    maxconn 1000
defaults
    timeout connect 10s
    timeout client 30s
    timeout server 30s
    option splice-auto
    http-reuse always
frontend http
    mode http
    bind 127.0.0.1:PORT2
    default_backend http
backend http
    mode http
    server back 127.0.0.1:PORT1
listen tcp
    mode tcp
    bind 127.0.0.1:PORT3
    server back 127.0.0.1:PORT1
EOF"#
    ),
    servers: &[
        "sed s/PORT1/$PORT/ back.in >back.conf; exec nginx -p $PWD -c $PWD/back.conf -g 'daemon off;'",
        "sed s/PORT1/$PORT/ haproxy.in | sed s/PORT2/$PORT2/ | sed s/PORT3/$PORT3/ >haproxy.conf; exec haproxy -db -f haproxy.conf",
    ],
    client: r#"
        get() { curl -sS --no-progress-meter --fail "$@"; }
        for from in http://127.0.0.1:$PORT2 http://127.0.0.1:$PORT3; do
            get $from/30MB | sha256sum
            get -w '%{http_code} %{num_connects}\n' $(for n in 1 2 3 4 5 6; do echo $from/1B $from/20kB; done) | sha256sum
            get $from/none || echo "curl: $?"
            get --parallel --parallel-max 10 -o '#1.got' "$from/20kB?[1-60]"
            cat *.got | sha256sum
            rm -f *.got
        done"#,
    among_servers: true,
    ..ROW
};

/// Slow and fast reading, ranges, many at once, what a server refuses.
pub static CURL: Row = Row {
    once: site!(
        r#"
        echo "$head worker_processes 1; pid $PWD/pid; http { access_log off; $temporary
            server { listen 127.0.0.1:PORT1; root $PWD/www; } }" >in"#
    ),
    servers: &["sed s/PORT1/$PORT/ in >conf; exec nginx -p $PWD -c $PWD/conf -g 'daemon off;'"],
    client: r#"
        from=http://127.0.0.1:$PORT
        curl -sS $from/30MB | sha256sum
        curl -sS --limit-rate 20M $from/30MB | sha256sum
        curl -sS --max-filesize 1000 $from/30MB || echo "curl: $?"
        curl -sS $from/30MB | head -c 1000000 | sha256sum || true
        curl -sS --no-progress-meter -Z --parallel-max 8 -o '#1.got' "$from/30MB?[1-4]"
        sha256sum *.got
        rm -f *.got
        curl -sS --data-binary @www/30MB $from/1B | grep -o '405 Not Allowed' | head -n1
        curl -sS -I $from/20kB | grep -iE '^(HTTP|Content-Length)'"#,
    stop: libc::SIGQUIT,
    ..ROW
};

pub static WGET: Row = Row {
    once: "mkdir -p www/a/b; for n in 1 2 3 4 5 6 7 8; do seq ${n}00000 >www/a/$n; seq ${n}000 >www/a/b/$n; done",
    servers: &["exec python3 -m http.server $PORT --bind 127.0.0.1 --directory www"],
    client: r#"
        rm -rf got
        wget -q -r -np -nH -P got http://127.0.0.1:$PORT/a/
        (cd got && find . -type f ! -name 'index*' | sort | xargs sha256sum)
        wget -q -O - http://127.0.0.1:$PORT/a/8 | tail -n 2
        wget -nv -O - http://127.0.0.1:$PORT/none 2>&1 | grep -o 'ERROR 404' || true"#,
    stop: libc::SIGINT,
    ..ROW
};

/// TLS taken off before redis, by a thread a connection.
pub static STUNNEL: Row = Row {
    once: r#"
        openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
            -keyout key.pem -out cert.pem -days 9 2>/dev/null"#,
    servers: &[
        "exec redis-server --port $PORT --bind 127.0.0.1 --save '' --enable-debug-command yes",
        r#"printf 'foreground = yes\npid =\ndebug = err\nsocket = l:TCP_NODELAY=1\n[redis]\naccept = 127.0.0.1:%s\nconnect = 127.0.0.1:%s\ncert = %s\nkey = %s\n' \
            $PORT2 $PORT $PWD/cert.pem $PWD/key.pem >stunnel.conf
        exec stunnel stunnel.conf"#,
    ],
    client: r#"
        tls="-p $PORT2 --tls --cacert cert.pem"
        redis-benchmark $tls -n 5000 -c 10 -d 1000 -t set,get,lrange_100 --csv | cut -d, -f1
        seq 2000 | sed 's/.*/set key:& value:&/' | redis-cli $tls | sort | uniq -c
        head -c 3000000 /dev/zero | tr '\0' z | redis-cli $tls -x set large
        redis-cli $tls get large | sha256sum
        redis-cli $tls debug digest"#,
    among_servers: true,
    ..ROW
};

/// A server that no preload reaches, and what `tandem run` says to such programs.
pub static STATIC: Row = Row {
    once: "mkdir www; seq 500000 >www/many; cp /bin/busybox .",
    servers: &["exec ./busybox httpd -f -p 127.0.0.1:$PORT -h www"],
    client: r#"
        curl -sS http://127.0.0.1:$PORT/many | sha256sum
        curl -sS http://127.0.0.1:$PORT/many http://127.0.0.1:$PORT/many | sha256sum
        "$TANDEM" run -- ./busybox true || echo "tandem run: $?""#,
    both: Both::Tcp("a static program loads no library"),
    ..ROW
};
