// Stores an event twice with one dedupe key, replays its session, and decodes an error: example [host:port]
//
// Runs in the root of the repository; docs/clients.md has the commands.

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include <grpcpp/grpcpp.h>

#include "elephantasm/events/v1/events.grpc.pb.h"
#include "elephantasm/events/v1/spirits.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace events = elephantasm::events::v1;

namespace {

// Exits unless the call succeeded.
void check(const grpc::Status& status) {
  if (!status.ok()) {
    std::cerr << status.error_message() << '\n';
    std::exit(1);
  }
}

// The reason in an error's details.
std::string reason(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const auto& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info)) {
      return info.reason();
    }
  }
  return "";
}

void set_deadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
}

}  // namespace

int main(int count, char** arguments) {
  std::stringstream config;
  config << std::ifstream("clients/service-config.json").rdbuf();
  grpc::ChannelArguments options;
  options.SetServiceConfigJSON(config.str());
  auto channel = grpc::CreateCustomChannel(count > 1 ? arguments[1] : "localhost:50051",
                                           grpc::InsecureChannelCredentials(), options);
  auto spirit_stub = events::SpiritService::NewStub(channel);
  auto event_stub = events::EventService::NewStub(channel);

  events::CreateSpiritRequest ada;
  ada.set_name("Ada");
  events::CreateSpiritResponse spirit;
  {
    grpc::ClientContext context;
    set_deadline(context);
    check(spirit_stub->CreateSpirit(&context, ada, &spirit));
  }
  const std::string& spirit_id = spirit.spirit().id();

  events::CreateEventRequest hello;
  hello.set_spirit_id(spirit_id);
  hello.set_session_id("s1");
  hello.set_event_type("message.in");
  hello.set_content("Hello");
  hello.set_dedupe_key("hello-1");
  hello.set_on_duplicate(events::ON_DUPLICATE_RETURN_EXISTING);
  for (int call = 0; call < 2; ++call) {  // the second call finds the event of the first
    grpc::ClientContext context;
    set_deadline(context);
    events::CreateEventResponse reply;
    check(event_stub->CreateEvent(&context, hello, &reply));
    std::cout << events::CreateOutcome_Name(reply.outcome()) << ' ' << reply.event().sequence() << '\n';
  }

  events::StreamSessionEventsRequest replay;
  replay.set_spirit_id(spirit_id);
  replay.set_session_id("s1");
  grpc::ClientContext replaying;
  set_deadline(replaying);
  auto items = event_stub->StreamSessionEvents(&replaying, replay);
  for (events::StreamSessionEventsResponse item; items->Read(&item);) {
    std::cout << "replayed " << item.event().sequence() << ' ' << item.event().content() << '\n';
  }
  check(items->Finish());

  events::GetEventRequest unknown;
  unknown.set_event_id(spirit_id);
  grpc::ClientContext getting;
  set_deadline(getting);
  events::GetEventResponse event;
  std::cout << "refused " << reason(event_stub->GetEvent(&getting, unknown, &event)) << '\n';
}
