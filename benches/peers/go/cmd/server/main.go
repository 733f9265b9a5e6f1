// The contract's server in grpc-go, as its community writes it: a loop of Send, and the settings that help a sender.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "outflow/benches/peers/go/protobuf"
)

func main() {
	log.SetFlags(0)
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), `Serves simulated work with grpc-go over plain HTTP/2 until SIGTERM.

The first line on stdout is "listening on IP:PORT". Parameters of a request: responses (5), size (0), every (0s), stamp
(false); jobs, step and batch are accepted and ignored.

`)
		flag.PrintDefaults()
	}
	listen := flag.String("listen", "127.0.0.1:0", "serve on this `IP:PORT`; port 0: any")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument %q", flag.Arg(0))
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}

	// With the default of 100 the collector runs all the time, since so little is live: a quarter less time, measured.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	server := grpc.NewServer(
		// How much is gathered for one write: as much as a stream may have waiting (64 KiB); more was no faster.
		grpc.WriteBufferSize(64<<10),
		// Calls are served by goroutines whose stacks have grown already: a few per cent for short ones.
		grpc.NumStreamWorkers(uint32(runtime.GOMAXPROCS(0))),
		// The windows of a server bound what it receives, not what it sends: none is set. Shared write buffers are default.
	)
	pb.RegisterStreamServiceServer(server, streams{})

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, server.Stop)
	fmt.Printf("listening on %s\n", listener.Addr())
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		log.Fatal(err)
	}
}

type streams struct {
	pb.UnimplementedStreamServiceServer
}

func (streams) FetchResponse(request *pb.Request, stream grpc.ServerStreamingServer[pb.Response]) error {
	work, err := parse(request)
	if err != nil {
		return err
	}
	begin := time.Now()
	for n := range work.responses {
		if work.every > 0 {
			if err := sleepUntil(stream.Context(), begin.Add(time.Duration(n)*work.every)); err != nil {
				return err
			}
		}
		text := work.text
		if work.stamp {
			text = strconv.FormatInt(time.Now().UnixNano(), 10) + work.padding
		}
		if err := stream.Send(&pb.Response{Result: text, Sequence: n + 1}); err != nil {
			return err
		}
	}
	return nil
}

// sleepUntil returns at once where that time has come: a schedule catches up.
func sleepUntil(ctx context.Context, until time.Time) error {
	pause := time.Until(until)
	if pause <= 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// work is what a request asks for, as outflow's source `simulate` understands it with one job.
type work struct {
	responses     uint64
	every         time.Duration
	stamp         bool
	text, padding string
}

func parse(request *pb.Request) (work, error) {
	w := work{responses: 5}
	var size uint64
	for name, value := range request.Parameters {
		var err error
		switch name {
		case "responses":
			w.responses, err = atMost(1_000_000_000, value)
		case "size":
			size, err = atMost(1<<20, value)
		case "every":
			if w.every, err = time.ParseDuration(value); err == nil && w.every < 0 {
				err = errors.New("is negative")
			}
		case "stamp":
			w.stamp, err = strconv.ParseBool(value)
		case "jobs", "step", "batch":
		default:
			err = errors.New("is no parameter; known are responses, size, every, stamp, jobs, step and batch")
		}
		if err != nil {
			return w, status.Errorf(codes.InvalidArgument, "parameters.%s: %v", name, err)
		}
	}
	w.padding = strings.Repeat(".", int(size))
	w.text = fmt.Sprintf("Request #0 For Id:%d", request.Id) + w.padding
	return w, nil
}

func atMost(most uint64, value string) (uint64, error) {
	number, err := strconv.ParseUint(value, 10, 64)
	if err == nil && number > most {
		err = fmt.Errorf("is %d, at most %d is allowed", number, most)
	}
	return number, err
}
