import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.segment.analytics.kotlin.core.Configuration;
import com.segment.analytics.kotlin.core.RequestFactory;
import com.segment.analytics.kotlin.core.compat.ConfigurationBuilder;
import com.segment.analytics.kotlin.core.compat.JavaAnalytics;
import com.segment.analytics.kotlin.core.utilities.InMemoryStorageProvider;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Post the calls of stdin to a data plane with Segment's analytics-kotlin, as an app does; print what failed.
 *
 * <p>SegmentKotlin URL WRITE_KEY gzip &lt; [["track", {"userId": …}], …]
 *
 * <p>An app has one user: who identified last is the user of the calls that follow. The SDK speaks https only; its
 * request factory, which apps may replace, opens the same address in clear here.
 */
public class SegmentKotlin {
  private static final Gson GSON = new Gson();

  public static void main(String[] args) throws InterruptedException {
    Thread.setDefaultUncaughtExceptionHandler( // the SDK's own threads would keep the program alive
        (thread, error) -> {
          error.printStackTrace();
          Runtime.getRuntime().halt(1);
        });
    JsonArray calls = GSON.fromJson(new InputStreamReader(System.in), JsonArray.class);
    String host = URI.create(args[0]).getAuthority() + "/v1";
    List<String> failed = new CopyOnWriteArrayList<>();
    InClear requests = new InClear();
    Configuration configuration =
        new ConfigurationBuilder(args[1])
            .setApplication("forwarder-test")
            .setApiHost(host)
            .setCdnHost(host)
            .setFlushAt(20)
            .setRequestFactory(requests)
            .build();
    configuration.setStorageProvider(new InMemoryStorageProvider());
    configuration.setErrorHandler(
        error -> {
          failed.add(String.valueOf(error.getMessage()));
          return kotlin.Unit.INSTANCE;
        });
    JavaAnalytics client = new JavaAnalytics(configuration);
    for (JsonElement call : calls) {
      JsonArray pair = call.getAsJsonArray();
      make(client, pair.get(0).getAsString(), pair.get(1).getAsJsonObject());
    }
    // It tells nobody when a batch has arrived: nothing may be left over for a while after the first upload.
    for (int tries = 0, quiet = 0; tries < 150 && quiet < 4 && failed.isEmpty(); tries++) {
      client.flush();
      Thread.sleep(200);
      quiet = requests.uploads.get() > 0 && client.pendingUploads().isEmpty() ? quiet + 1 : 0;
    }
    failed.addAll(client.pendingUploads());
    System.out.println(GSON.toJson(failed));
    System.exit(0);
  }

  private static void make(JavaAnalytics client, String kind, JsonObject call) {
    switch (kind) {
      case "identify" -> client.identify(text(call, "userId"), map(call, "traits"));
      case "track" -> client.track(text(call, "event"), map(call, "properties"));
      case "group" -> client.group(text(call, "groupId"), map(call, "traits"));
      case "screen" -> client.screen(text(call, "name"));
      case "alias" -> client.alias(text(call, "userId"));
      default -> throw new IllegalArgumentException(kind);
    }
  }

  private static String text(JsonObject call, String name) {
    return call.get(name).getAsString();
  }

  @SuppressWarnings("unchecked")
  private static Map<String, Object> map(JsonObject call, String name) {
    return GSON.fromJson(call.get(name), Map.class);
  }

  private static final class InClear extends RequestFactory {
    private final AtomicInteger uploads = new AtomicInteger();

    @Override
    public HttpURLConnection openConnection(String url) {
      if (url.endsWith("/b")) {
        uploads.incrementAndGet();
      }
      try {
        return (HttpURLConnection) URI.create(url.replace("https:", "http:")).toURL().openConnection();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }
}
