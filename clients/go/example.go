// Stores an event twice with one dedupe key, replays its session, and decodes an error: example [host:port]
//
// Runs in the root of the repository; docs/clients.md has the commands.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	eventsv1 "github.com/elephantasm/events/gen/go/elephantasm/events/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func main() {
	address := "localhost:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	config, err := os.ReadFile("clients/service-config.json")
	check(err)
	// Older than 1.63, gRPC has no grpc.NewClient; older than 1.40, it retries only with GRPC_GO_RETRY=on.
	channel, err := grpc.Dial(address, grpc.WithInsecure(), grpc.WithDefaultServiceConfig(string(config)))
	check(err)
	defer channel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	created, err := eventsv1.NewSpiritServiceClient(channel).CreateSpirit(ctx, &eventsv1.CreateSpiritRequest{Name: "Ada"})
	check(err)
	spirit := created.Spirit.Id
	events := eventsv1.NewEventServiceClient(channel)
	hello := &eventsv1.CreateEventRequest{
		SpiritId:    spirit,
		SessionId:   proto.String("s1"),
		EventType:   "message.in",
		Content:     proto.String("Hello"),
		DedupeKey:   proto.String("hello-1"),
		OnDuplicate: eventsv1.OnDuplicate_ON_DUPLICATE_RETURN_EXISTING,
	}
	for i := 0; i < 2; i++ { // the second call finds the event of the first
		reply, err := events.CreateEvent(ctx, hello)
		check(err)
		fmt.Println(reply.Outcome, reply.Event.Sequence)
	}

	replay, err := events.StreamSessionEvents(ctx, &eventsv1.StreamSessionEventsRequest{SpiritId: spirit, SessionId: "s1"})
	check(err)
	for {
		item, err := replay.Recv()
		if err == io.EOF {
			break
		}
		check(err)
		fmt.Println("replayed", item.GetEvent().Sequence, item.GetEvent().GetContent())
	}

	_, err = events.GetEvent(ctx, &eventsv1.GetEventRequest{EventId: spirit})
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			fmt.Println("refused", info.Reason)
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
