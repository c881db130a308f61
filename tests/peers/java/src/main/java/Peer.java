import io.grpc.CallOptions;
import io.grpc.ClientInterceptors;
import io.grpc.Channel;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** Calls the Workload API and SDS with grpc-java as it comes: no channel option at all. Arguments: SOCKET SPIFFE-ID. */
public final class Peer {
  private static final String SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

  /** Messages are bytes here. */
  private static final MethodDescriptor.Marshaller<byte[]> BYTES =
      new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] message) {
          return new ByteArrayInputStream(message);
        }

        @Override
        public byte[] parse(InputStream stream) {
          try {
            return stream.readAllBytes();
          } catch (IOException reason) {
            throw new UncheckedIOException(reason);
          }
        }
      };

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel =
        Grpc.newChannelBuilder("unix://" + arguments[0], InsecureChannelCredentials.create()).build();
    byte[] name = arguments[1].getBytes(StandardCharsets.UTF_8);

    Metadata header = new Metadata();
    header.put(Metadata.Key.of("workload.spiffe.io", Metadata.ASCII_STRING_MARSHALLER), "true");
    Channel workload = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(header));
    var fetch = method("SpiffeWorkloadAPI/FetchX509SVID", MethodDescriptor.MethodType.SERVER_STREAMING);
    byte[] svid =
        ClientCalls.blockingServerStreamingCall(workload, fetch, CallOptions.DEFAULT, new byte[0]).next();
    must(contains(svid, name));
    System.out.println("FetchX509SVID has the name");

    var stream =
        method(
            "envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            MethodDescriptor.MethodType.BIDI_STREAMING);
    Answers answers = new Answers();
    StreamObserver<byte[]> requests =
        ClientCalls.asyncBidiStreamingCall(channel.newCall(stream, CallOptions.DEFAULT), answers);
    // DiscoveryRequest: 3 is resource_names, 4 is type_url.
    ByteArrayOutputStream request = new ByteArrayOutputStream();
    field(request, 3, name);
    field(request, 4, SECRET.getBytes(StandardCharsets.UTF_8));
    requests.onNext(request.toByteArray());
    byte[] secret = answers.queue.take();
    must(contains(secret, name) && contains(secret, "BEGIN PRIVATE KEY".getBytes(StandardCharsets.UTF_8)));
    System.out.println("StreamSecrets has the name and the key");

    // A message that is larger than any should be, over as many frames as it takes.
    Answers refusal = new Answers();
    ClientCalls.asyncBidiStreamingCall(channel.newCall(stream, CallOptions.DEFAULT), refusal)
        .onNext(new byte[5 * 1024 * 1024]);
    must(new String(refusal.queue.take(), StandardCharsets.UTF_8).contains("RESOURCE_EXHAUSTED"));
    System.out.println("StreamSecrets refuses what is too large");
    System.exit(0);
  }

  private static MethodDescriptor<byte[], byte[]> method(String name, MethodDescriptor.MethodType type) {
    return MethodDescriptor.newBuilder(BYTES, BYTES).setType(type).setFullMethodName(name).build();
  }

  /** A string field of protobuf, shorter than 128 bytes. */
  private static void field(ByteArrayOutputStream out, int number, byte[] value) {
    must(value.length < 128);
    out.write(number << 3 | 2);
    out.write(value.length);
    out.writeBytes(value);
  }

  private static boolean contains(byte[] all, byte[] part) {
    var charset = StandardCharsets.ISO_8859_1;
    return new String(all, charset).contains(new String(part, charset));
  }

  private static void must(boolean holds) {
    if (!holds) {
      throw new AssertionError();
    }
  }

  /** What comes: messages, or the status as text. */
  private static final class Answers implements StreamObserver<byte[]> {
    private final BlockingQueue<byte[]> queue = new LinkedBlockingQueue<>();

    @Override
    public void onNext(byte[] message) {
      queue.add(message);
    }

    @Override
    public void onError(Throwable status) {
      queue.add(status.toString().getBytes(StandardCharsets.UTF_8));
    }

    @Override
    public void onCompleted() {
      queue.add("OK".getBytes(StandardCharsets.UTF_8));
    }
  }
}
