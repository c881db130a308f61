import io.spiffe.bundle.jwtbundle.JwtBundle;
import io.spiffe.bundle.jwtbundle.JwtBundleSet;
import io.spiffe.bundle.x509bundle.X509Bundle;
import io.spiffe.exception.JwtSvidException;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.spiffeid.TrustDomain;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.svid.x509svid.X509SvidValidator;
import io.spiffe.workloadapi.CachedJwtSource;
import io.spiffe.workloadapi.DefaultJwtSource;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultWorkloadApiClient.ClientOptions;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.DefaultX509Source.X509SourceOptions;
import io.spiffe.workloadapi.JwtSource;
import io.spiffe.workloadapi.JwtSourceOptions;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.CountDownLatch;

/**
 * Uses all of the Workload API with java-spiffe, then watches X509-SVIDs until it has seen three; one line for each of these.
 * Arguments: SOCKET SPIFFE-ID.
 */
public final class Spiffe {
  private static SpiffeId id;
  private static TrustDomain own;

  public static void main(String[] arguments) throws Exception {
    String address = "unix:" + arguments[0];
    id = SpiffeId.parse(arguments[1]);
    own = id.getTrustDomain();
    ClientOptions options = ClientOptions.builder().spiffeSocketPath(address).build();
    try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient(options)) {
      x509(client, address);
      jwt(client);
      try (JwtSource plain = DefaultJwtSource.newSource(source(address))) {
        validated(plain.fetchJwtSvid("plain"), plain.getBundleForTrustDomain(own), "plain");
      }
      try (JwtSource cached = CachedJwtSource.newSource(source(address))) {
        JwtSvid svid = cached.fetchJwtSvid("cached");
        validated(svid, cached.getBundleForTrustDomain(own), "cached");
        must(cached.fetchJwtSvid("cached").getToken().equals(svid.getToken()));
      }
      watch(client);
    }
    System.exit(0);
  }

  /** A source closes the client that its options name, or that it puts there, so each has its own options. */
  private static JwtSourceOptions source(String address) {
    return JwtSourceOptions.builder().spiffeSocketPath(address).build();
  }

  private static void x509(WorkloadApiClient client, String address) throws Exception {
    X509Bundle fetched = client.fetchX509Bundles().getBundleForTrustDomain(own);
    must(fetched.getX509Authorities().size() == 1);
    X509SourceOptions options = X509SourceOptions.builder().spiffeSocketPath(address).build();
    try (DefaultX509Source source = DefaultX509Source.newSource(options)) {
      X509Svid svid = source.getX509Svid();
      must(svid.getSpiffeId().equals(id));
      X509SvidValidator.verifyChain(svid.getChain(), source);
      must(source.getBundleForTrustDomain(own).equals(fetched));
    }
    System.out.println("X509Source and FetchX509Bundles agree");
  }

  private static void jwt(WorkloadApiClient client) throws Exception {
    JwtSvid svid = client.fetchJwtSvid("java", "also");
    JwtBundleSet bundles = client.fetchJwtBundles();
    validated(svid, bundles.getBundleForTrustDomain(own), "also");
    must(client.fetchJwtSvids(id, "java").get(0).getSpiffeId().equals(id));
    JwtSvid judged = client.validateJwtSvid(svid.getToken(), "java");
    must(judged.getSpiffeId().equals(id) && judged.getAudience().equals(Set.of("java", "also")));
    // The client does not look at signatures, so only the agent can refuse a forged one.
    int signature = svid.getToken().lastIndexOf('.') + 1;
    char first = svid.getToken().charAt(signature) == 'A' ? 'B' : 'A';
    String forged = new StringBuilder(svid.getToken()).replace(signature, signature + 1, "" + first).toString();
    try {
      client.validateJwtSvid(forged, "java");
      throw new AssertionError("a forged JWT-SVID is valid");
    } catch (JwtSvidException expected) {
      System.out.println("ValidateJWTSVID refuses a forged one");
    }
  }

  private static void validated(JwtSvid svid, JwtBundle keys, String audience) throws Exception {
    must(JwtSvid.parseAndValidate(svid.getToken(), keys, Set.of(audience)).getSpiffeId().equals(id));
    System.out.println("a JWT-SVID is valid for " + audience);
  }

  private static void watch(WorkloadApiClient client) throws InterruptedException {
    Set<Object> serials = new HashSet<>();
    CountDownLatch three = new CountDownLatch(3);
    client.watchX509Context(
        new Watcher<>() {
          @Override
          public void onUpdate(X509Context update) {
            X509Svid svid = update.getDefaultSvid();
            if (serials.add(svid.getLeaf().getSerialNumber())) {
              System.out.println(svid.getSpiffeId() + " " + svid.getLeaf().getSerialNumber());
              three.countDown();
            }
          }

          @Override
          public void onError(Throwable reason) {
            System.err.println(reason);
          }
        });
    three.await();
  }

  private static void must(boolean holds) {
    if (!holds) {
      throw new AssertionError();
    }
  }
}
