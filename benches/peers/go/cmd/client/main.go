// A load client in stock grpc-go: default dial options, the generated stub, a loop of Recv.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"outflow/benches/peers/go/internal/report"
	pb "outflow/benches/peers/go/protobuf"
)

const connectWithin = 10 * time.Second

type options struct {
	server               string
	connections, streams int
	calls                int64
	duration             time.Duration
	stamps               bool
	request              *pb.Request
}

func main() {
	log.SetFlags(0)
	options := parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	stubs, err := connect(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	result := load(ctx, options, stubs)
	if err := result.Print(); err != nil {
		log.Fatal(err)
	}
	for name, calls := range result.Statuses {
		if name != code.Code_OK.String() {
			log.Fatalf("%d calls ended with %s: %s", calls, name, failure.Load())
		}
	}
	if result.SequenceErrors > 0 {
		log.Fatalf("%d responses did not have the sequence that was next", result.SequenceErrors)
	}
	if options.stamps && uint64(result.Latency.Count) != result.Responses {
		log.Fatalf("of %d responses only %d had a stamp", result.Responses, result.Latency.Count)
	}
}

func parse() options {
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), `Calls FetchResponse with grpc-go's default dial options, on so many connections with so many streams at once on each,
and prints what it measured as one JSON object. The connections are there before the clock is started.

Exit codes: 0 all is well; 1 it could not be measured, a call failed, a sequence was wrong or a stamp missing; 2 usage.

`)
		flag.PrintDefaults()
	}
	o := options{request: &pb.Request{Parameters: map[string]string{}}}
	flag.StringVar(&o.server, "server", "127.0.0.1:50005", "call this `IP:PORT`, over plain text")
	flag.IntVar(&o.connections, "connections", 1, "so many connections")
	flag.IntVar(&o.streams, "streams", 1, "so many streams at once on each connection")
	flag.Int64Var(&o.calls, "calls", 0, "so many calls in all (default: one for each stream, without -for)")
	flag.DurationVar(&o.duration, "for", 0, "begin calls for so long; those still under way are then cancelled, and have no status")
	flag.BoolVar(&o.stamps, "stamps", false, "ask for stamp=true and measure from emission to receipt")
	id := flag.Int("id", 1, "what to ask for")
	flag.StringVar(&o.request.Source, "source", "", "who is to answer; else the server's default")
	flag.Func("param", "a `NAME=VALUE` for the source, again for more", func(param string) error {
		name, value, found := strings.Cut(param, "=")
		if !found {
			return errors.New("NAME=VALUE is wanted")
		}
		o.request.Parameters[name] = value
		return nil
	})
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		usage("unexpected argument %q", flag.Arg(0))
	case o.connections < 1 || o.streams < 1:
		usage("-connections and -streams are at least 1")
	case o.calls < 0 || o.duration < 0:
		usage("-calls and -for are not negative")
	case o.calls > 0 && o.duration > 0:
		usage("either -calls or -for")
	}
	if o.calls == 0 && o.duration == 0 {
		o.calls = int64(o.connections) * int64(o.streams)
	}
	if o.stamps {
		o.request.Parameters["stamp"] = "true"
	}
	o.request.Id = int32(*id)
	return o
}

func usage(format string, arguments ...any) {
	log.Printf(format+" (-help says more)", arguments...)
	os.Exit(2)
}

func connect(ctx context.Context, o options) ([]pb.StreamServiceClient, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	stubs := make([]pb.StreamServiceClient, o.connections)
	for n := range stubs {
		conn, err := grpc.NewClient(o.server, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		conn.Connect()
		for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
			if state == connectivity.TransientFailure || !conn.WaitForStateChange(ctx, state) {
				return nil, fmt.Errorf("no connection with %s (%s): is a server there?", o.server, state)
			}
		}
		stubs[n] = pb.NewStreamServiceClient(conn)
	}
	return stubs, nil
}

// load keeps all streams busy until there were enough calls, or the time is over.
func load(ctx context.Context, o options, stubs []pb.StreamServiceClient) *report.Report {
	recorders := report.NewRecorders(o.connections * o.streams)
	watch := report.Start()
	if o.duration > 0 {
		// No deadline of the calls: they would tell it to the server, which would then end them.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer time.AfterFunc(o.duration, cancel).Stop()
		o.calls = math.MaxInt64
	}
	var begun atomic.Int64
	var streams sync.WaitGroup
	for n := range o.connections * o.streams {
		recorder, stub := recorders[n%len(recorders)], stubs[n%len(stubs)]
		streams.Go(func() {
			for ctx.Err() == nil && begun.Add(1) <= o.calls {
				call(ctx, stub, o, recorder)
			}
		})
	}
	streams.Wait()
	result := report.Sum(recorders, watch, o.stamps)
	result.Target, result.Connections, result.Streams = o.server, o.connections, o.streams
	return result
}

// failure is what the first call said that did not end well.
var failure atomic.Value

// call makes one call and reads it to its end.
func call(ctx context.Context, stub pb.StreamServiceClient, o options, recorder *report.Recorder) {
	begin := time.Now()
	stream, err := stub.FetchResponse(ctx, o.request)
	previous, sequence := begin, uint64(0)
	for err == nil {
		var response *pb.Response
		if response, err = stream.Recv(); err == nil {
			now := time.Now()
			sequence++
			received(recorder, response, sequence, previous, now, o.stamps)
			previous = now
		}
	}
	recorder.Lock()
	defer recorder.Unlock()
	recorder.Calls++
	if ctx.Err() != nil {
		return // the time was over
	}
	if errors.Is(err, io.EOF) {
		err = nil
	} else {
		failure.CompareAndSwap(nil, status.Convert(err).Message())
	}
	recorder.Statuses[code.Code(status.Code(err)).String()]++
	report.Record(recorder.Total, time.Since(begin), 1)
}

func received(recorder *report.Recorder, response *pb.Response, sequence uint64, previous, now time.Time, stamps bool) {
	bytes := proto.Size(response)
	recorder.Lock()
	defer recorder.Unlock()
	recorder.Responses++
	recorder.Bytes += uint64(bytes)
	if response.Sequence != sequence {
		recorder.SequenceErrors++
	}
	if sequence == 1 {
		report.Record(recorder.First, now.Sub(previous), 1)
	} else {
		report.Record(recorder.Gap, now.Sub(previous), 1)
	}
	if stamps {
		if emitted, err := strconv.ParseInt(response.Result[:min(19, len(response.Result))], 10, 64); err == nil {
			report.Record(recorder.Latency, time.Duration(now.UnixNano()-emitted), 1)
		}
	}
}
