// An echo, by one selector or by a thread a connection. usage: Echo selector|threads|channels|sockets PORT
import java.io.DataInputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.zip.CRC32;

public class Echo {
    static final int CONNECTIONS = 12;

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        switch (arguments[0]) {
            case "selector" -> selector(port);
            case "threads" -> threads(port);
            case "channels" -> channels(port);
            default -> sockets(port);
        }
    }

    static void selector(int port) throws Exception {
        Selector selector = Selector.open();
        ServerSocketChannel server = ServerSocketChannel.open();
        server.bind(new InetSocketAddress("127.0.0.1", port));
        server.configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel channel = server.accept();
                    if (channel == null) continue;
                    channel.configureBlocking(false);
                    channel.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(1 << 16));
                } else {
                    echo(key);
                }
            }
            selector.selectedKeys().clear();
        }
    }

    /** Reads only once all is written. */
    static void echo(SelectionKey key) throws Exception {
        SocketChannel channel = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        if (key.isReadable()) {
            int count = channel.read(buffer);
            if (count < 0) {
                channel.close();
                return;
            }
            buffer.flip();
        }
        channel.write(buffer);
        if (buffer.hasRemaining()) {
            key.interestOps(SelectionKey.OP_WRITE);
        } else {
            buffer.clear();
            key.interestOps(SelectionKey.OP_READ);
        }
    }

    static void threads(int port) throws Exception {
        ServerSocket server = new ServerSocket(port, 50, InetAddress.getByName("127.0.0.1"));
        while (true) {
            Socket socket = server.accept();
            new Thread(() -> {
                try (socket) {
                    InputStream in = socket.getInputStream();
                    OutputStream out = socket.getOutputStream();
                    byte[] data = new byte[30000];
                    for (int count; (count = in.read(data)) >= 0; ) out.write(data, 0, count);
                } catch (Exception e) {
                    e.printStackTrace();
                }
            }).start();
        }
    }

    /** All connections by one thread: each has a message under way. */
    static void channels(int port) throws Exception {
        Selector selector = Selector.open();
        List<CRC32> sums = new ArrayList<>();
        int open = 0;
        long[] left = new long[CONNECTIONS];
        for (int at = 0; at < CONNECTIONS; at++) {
            SocketChannel channel = SocketChannel.open();
            channel.configureBlocking(false);
            channel.connect(new InetSocketAddress("127.0.0.1", port));
            channel.register(selector, SelectionKey.OP_CONNECT, at);
            sums.add(new CRC32());
            left[at] = 800_000 + at * 1000;
            open++;
        }
        ByteBuffer[] sending = new ByteBuffer[CONNECTIONS];
        ByteBuffer in = ByteBuffer.allocate(1 << 16);
        Random dice = new Random(5);
        byte[] noise = new byte[900_000];
        dice.nextBytes(noise);
        while (open > 0) {
            if (selector.select(60_000) == 0) throw new Exception("nothing came for a minute");
            for (SelectionKey key : selector.selectedKeys()) {
                int at = (Integer) key.attachment();
                SocketChannel channel = (SocketChannel) key.channel();
                if (key.isConnectable()) {
                    channel.finishConnect();
                    sending[at] = ByteBuffer.wrap(noise, 0, (int) left[at]);
                    key.interestOps(SelectionKey.OP_READ | SelectionKey.OP_WRITE);
                    continue;
                }
                if (key.isWritable()) {
                    ByteBuffer all = sending[at];
                    ByteBuffer some = all.slice(all.position(), Math.min(all.remaining(), 1 + at * 3000));
                    all.position(all.position() + channel.write(some));
                    if (!all.hasRemaining()) {
                        channel.shutdownOutput();
                        key.interestOps(SelectionKey.OP_READ);
                    }
                }
                if (key.isReadable()) {
                    in.clear();
                    int count = channel.read(in);
                    if (count < 0) {
                        channel.close();
                        open--;
                    } else {
                        sums.get(at).update(in.array(), 0, count);
                        left[at] -= count;
                    }
                }
            }
            selector.selectedKeys().clear();
        }
        System.out.println("left at the ends: " + Arrays.toString(left));
        check(sums, noise, 1000);
    }

    static void sockets(int port) throws Exception {
        byte[] noise = new byte[900_000];
        new Random(6).nextBytes(noise);
        List<CRC32> sums = new ArrayList<>();
        List<Thread> all = new ArrayList<>();
        for (int n = 0; n < CONNECTIONS; n++) {
            int at = n;
            CRC32 sum = new CRC32();
            sums.add(sum);
            Thread thread = new Thread(() -> {
                try (Socket socket = new Socket("127.0.0.1", port)) {
                    socket.setTcpNoDelay(true);
                    DataInputStream in = new DataInputStream(socket.getInputStream());
                    OutputStream out = socket.getOutputStream();
                    byte[] got = new byte[40_000];
                    int size;
                    for (int from = 0; from < 800_000 + at * 1000; from += size) {
                        size = Math.min(1 + from / 20, Math.min(got.length, 800_000 + at * 1000 - from));
                        out.write(noise, from, size);
                        in.readFully(got, 0, size);
                        sum.update(got, 0, size);
                    }
                    socket.setSoTimeout(50);
                    try {
                        throw new Exception("read " + in.read());
                    } catch (SocketTimeoutException e) {
                        socket.setSoTimeout(30_000);
                    }
                    socket.shutdownOutput();
                    if (in.read() != -1) throw new Exception("more than was sent");
                } catch (Exception e) {
                    System.out.println(at + ": " + e);
                }
            });
            all.add(thread);
            thread.start();
        }
        for (Thread thread : all) thread.join();
        check(sums, noise, 1000);
    }

    static void check(List<CRC32> sums, byte[] noise, int more) {
        boolean[] right = new boolean[sums.size()];
        for (int at = 0; at < right.length; at++) {
            CRC32 sum = new CRC32();
            sum.update(noise, 0, 800_000 + at * more);
            right[at] = sum.getValue() == sums.get(at).getValue();
        }
        System.out.println(Arrays.toString(right));
    }
}
