// gRPC C++, callback API: a write reactor a stream, as its guide and its examples have it. Answers what Outflow's
// `simulate` source answers to the same parameters.

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "protobuf/stream_service.grpc.pb.h"

namespace {

using Clock = std::chrono::system_clock;
using std::chrono::nanoseconds;

// Takes the whole of `text` as a number that is not negative.
std::optional<int64_t> ParseNumber(std::string_view text) {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
    return number;
}

// 10us, 1ms, 1s: one number and its unit.
std::optional<nanoseconds> ParseDuration(std::string_view text) {
    const auto unit_at = text.find_first_not_of("0123456789");
    if (unit_at == std::string_view::npos) return std::nullopt;
    const auto number = ParseNumber(text.substr(0, unit_at));
    if (!number) return std::nullopt;
    const auto unit = text.substr(unit_at);
    if (unit == "ns") return nanoseconds(*number);
    if (unit == "us") return std::chrono::microseconds(*number);
    if (unit == "ms") return std::chrono::milliseconds(*number);
    if (unit == "s") return std::chrono::seconds(*number);
    return std::nullopt;
}

// What one request asks for.
struct Workload {
    int64_t responses = 5;
    nanoseconds every{0};
    bool stamp = false;
    // What each response says; with a stamp, what it says behind that.
    std::string text;
};

grpc::Status ParseWorkload(const protobuf::Request& request, Workload& workload) {
    int64_t size = 0;
    for (const auto& [name, value] : request.parameters()) {
        bool good = true;
        if (name == "responses" || name == "size") {
            const auto number = ParseNumber(value);
            good = number.has_value();
            if (good) (name == "size" ? size : workload.responses) = *number;
        } else if (name == "every") {
            const auto every = ParseDuration(value);
            good = every.has_value();
            if (good) workload.every = *every;
        } else if (name == "stamp") {
            good = value == "true" || value == "false";
            workload.stamp = value == "true";
        } else {
            // What only Outflow has a use for means nothing here.
            good = name == "jobs" || name == "step" || name == "batch";
        }
        if (!good) return {grpc::StatusCode::INVALID_ARGUMENT, name + "=" + value};
    }
    if (!workload.stamp) workload.text = "Request #0 For Id:" + std::to_string(request.id());
    workload.text.append(static_cast<size_t>(size), '.');
    return grpc::Status::OK;
}

// Nanoseconds since the Unix epoch, 19 digits.
std::string Stamp() {
    const auto since_epoch = std::chrono::duration_cast<nanoseconds>(Clock::now().time_since_epoch());
    char digits[32];
    std::snprintf(digits, sizeof digits, "%019lld", static_cast<long long>(since_epoch.count()));
    return digits;
}

// One stream: each write that is done begins the next. It deletes itself when gRPC is done with it.
class Stream final : public grpc::ServerWriteReactor<protobuf::Response> {
public:
    explicit Stream(Workload workload) : workload_(std::move(workload)), begin_(Clock::now()) {
        response_.set_result(workload_.text);
        Next();
    }

    void OnWriteDone(bool ok) override {
        if (ok) {
            Next();
        } else {
            Finish(grpc::Status::CANCELLED);
        }
    }

    void OnDone() override { delete this; }

private:
    void Next() {
        if (written_ == workload_.responses) return Finish(grpc::Status::OK);  // none were asked for
        const auto due = begin_ + written_ * workload_.every;
        if (workload_.every.count() == 0 || Clock::now() >= due) return Write();
        // A new one each time: the old one may still be in the call that led here.
        alarm_.emplace();
        alarm_->Set(due, [this](bool) { Write(); });
    }

    void Write() {
        written_ += 1;
        response_.set_sequence(static_cast<uint64_t>(written_));
        if (workload_.stamp) response_.set_result(Stamp() + workload_.text);
        grpc::WriteOptions options;
        if (written_ == workload_.responses) {
            // The trailers go out with it.
            StartWriteAndFinish(&response_, options, grpc::Status::OK);
        } else if (workload_.every.count() == 0 && written_ > 1) {
            // More follow at once: let the transport gather them. Not so the first, or the headers that go with it
            // would wait for a write that nothing begins.
            StartWrite(&response_, options.set_buffer_hint());
        } else {
            StartWrite(&response_, options);
        }
    }

    const Workload workload_;
    const Clock::time_point begin_;
    protobuf::Response response_;
    int64_t written_ = 0;
    std::optional<grpc::Alarm> alarm_;
};

// A stream that was refused.
class Refused final : public grpc::ServerWriteReactor<protobuf::Response> {
public:
    explicit Refused(const grpc::Status& status) { Finish(status); }

    void OnDone() override { delete this; }
};

class Service final : public protobuf::StreamService::CallbackService {
    grpc::ServerWriteReactor<protobuf::Response>* FetchResponse(grpc::CallbackServerContext*,
                                                                const protobuf::Request* request) override {
        Workload workload;
        const auto status = ParseWorkload(*request, workload);
        if (!status.ok()) return new Refused(status);
        return new Stream(std::move(workload));
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3 || std::string_view(argv[1]) != "--listen") {
        std::cerr << "usage: --listen ADDRESS:PORT (port 0: any)\n";
        return 2;
    }
    const std::string address = argv[2];
    Service service;
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    // Two servers on one port would share its connections unnoticed.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_OPTIMIZATION_TARGET, "throughput");
    builder.RegisterService(&service);
    const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (server == nullptr || port == 0) {
        std::cerr << "cannot listen on " << address << '\n';
        return 1;
    }
    std::cout << "listening on " << address.substr(0, address.rfind(':')) << ':' << port << std::endl;
    server->Wait();
}
