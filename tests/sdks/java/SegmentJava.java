import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.segment.analytics.Analytics;
import com.segment.analytics.Callback;
import com.segment.analytics.messages.AliasMessage;
import com.segment.analytics.messages.GroupMessage;
import com.segment.analytics.messages.IdentifyMessage;
import com.segment.analytics.messages.Message;
import com.segment.analytics.messages.MessageBuilder;
import com.segment.analytics.messages.PageMessage;
import com.segment.analytics.messages.ScreenMessage;
import com.segment.analytics.messages.TrackMessage;
import java.io.InputStreamReader;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Post the calls of stdin to a data plane with Segment's analytics-java, as its users do; print what failed.
 *
 * <p>SegmentJava URL WRITE_KEY plain &lt; [["track", {"userId": …}], …]
 */
public class SegmentJava {
  private static final Gson GSON = new Gson();

  public static void main(String[] args) throws InterruptedException {
    JsonArray calls = GSON.fromJson(new InputStreamReader(System.in), JsonArray.class);
    List<String> failed = new CopyOnWriteArrayList<>();
    CountDownLatch waiting = new CountDownLatch(calls.size());
    Analytics client =
        Analytics.builder(args[1])
            .endpoint(args[0])
            .flushInterval(1, TimeUnit.SECONDS)
            .flushQueueSize(20)
            .callback(
                new Callback() {
                  @Override
                  public void success(Message message) {
                    waiting.countDown();
                  }

                  @Override
                  public void failure(Message message, Throwable error) {
                    failed.add(String.valueOf(error.getMessage()));
                    waiting.countDown();
                  }
                })
            .build();
    for (JsonElement call : calls) {
      JsonArray pair = call.getAsJsonArray();
      client.enqueue(message(pair.get(0).getAsString(), pair.get(1).getAsJsonObject()));
    }
    client.flush();
    if (!waiting.await(80, TimeUnit.SECONDS)) {
      failed.add("never answered: " + waiting.getCount());
    }
    client.shutdown();
    System.out.println(GSON.toJson(failed));
    System.exit(0);
  }

  private static MessageBuilder<?, ?> message(String kind, JsonObject call) {
    MessageBuilder<?, ?> made =
        switch (kind) {
          case "identify" -> IdentifyMessage.builder().traits(map(call, "traits"));
          case "track" -> TrackMessage.builder(text(call, "event")).properties(map(call, "properties"));
          case "group" -> GroupMessage.builder(text(call, "groupId")).traits(map(call, "traits"));
          case "page" -> PageMessage.builder(text(call, "name"));
          case "screen" -> ScreenMessage.builder(text(call, "name"));
          case "alias" -> AliasMessage.builder(text(call, "previousId"));
          default -> throw new IllegalArgumentException(kind);
        };
    if (call.has("userId")) {
      made.userId(text(call, "userId"));
    }
    if (call.has("anonymousId")) {
      made.anonymousId(text(call, "anonymousId"));
    }
    return made;
  }

  private static String text(JsonObject call, String name) {
    return call.get(name).getAsString();
  }

  @SuppressWarnings("unchecked")
  private static Map<String, ?> map(JsonObject call, String name) {
    return GSON.fromJson(call.get(name), Map.class);
  }
}
