import com.elephantasm.events.v1.CreateEventRequest;
import com.elephantasm.events.v1.CreateSpiritRequest;
import com.elephantasm.events.v1.EventServiceGrpc;
import com.elephantasm.events.v1.GetEventRequest;
import com.elephantasm.events.v1.OnDuplicate;
import com.elephantasm.events.v1.SpiritServiceGrpc;
import com.elephantasm.events.v1.StreamSessionEventsRequest;
import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * Stores an event twice with one dedupe key, replays its session, and decodes an error: Example [host:port]
 *
 * <p>Runs in the root of the repository; docs/clients.md has the commands.
 */
public final class Example {
    public static void main(String[] arguments) throws Exception {
        String address = arguments.length > 0 ? arguments[0] : "localhost:50051";
        @SuppressWarnings("unchecked")
        Map<String, ?> config =
                new Gson().fromJson(Files.readString(Path.of("clients/service-config.json")), Map.class);
        ManagedChannel channel =
                ManagedChannelBuilder.forTarget(address)
                        .usePlaintext()
                        .defaultServiceConfig(config)
                        .enableRetry()
                        .build();
        try {
            run(channel);
        } finally {
            channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
        }
    }

    private static void run(ManagedChannel channel) throws Exception {
        String spirit =
                SpiritServiceGrpc.newBlockingStub(channel)
                        .createSpirit(CreateSpiritRequest.newBuilder().setName("Ada").build())
                        .getSpirit()
                        .getId();
        // The deadline covers all calls of this stub; a program takes one for each call.
        EventServiceGrpc.EventServiceBlockingStub events =
                EventServiceGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
        CreateEventRequest hello =
                CreateEventRequest.newBuilder()
                        .setSpiritId(spirit)
                        .setSessionId("s1")
                        .setEventType("message.in")
                        .setContent("Hello")
                        .setDedupeKey("hello-1")
                        .setOnDuplicate(OnDuplicate.ON_DUPLICATE_RETURN_EXISTING)
                        .build();
        for (int call = 0; call < 2; call++) { // the second call finds the event of the first
            var reply = events.createEvent(hello);
            System.out.println(reply.getOutcome() + " " + reply.getEvent().getSequence());
        }

        var replay = StreamSessionEventsRequest.newBuilder().setSpiritId(spirit).setSessionId("s1").build();
        events.streamSessionEvents(replay)
                .forEachRemaining(
                        item -> {
                            var event = item.getEvent();
                            System.out.println("replayed " + event.getSequence() + " " + event.getContent());
                        });

        try {
            events.getEvent(GetEventRequest.newBuilder().setEventId(spirit).build());
        } catch (StatusRuntimeException refused) {
            for (Any detail : StatusProto.fromThrowable(refused).getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    System.out.println("refused " + detail.unpack(ErrorInfo.class).getReason());
                }
            }
        }
    }
}
