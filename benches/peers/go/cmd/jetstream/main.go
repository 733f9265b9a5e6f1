// The journaled load on NATS JetStream: many runs, each a subject of one stream and a consumer of its own, and what they
// publish is received while it is published.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"outflow/benches/peers/go/internal/report"
)

const (
	streamPrefix = "outflow_bench"
	// For every single thing that is waited for: an answer, an acknowledgement, the next response.
	patience = 30 * time.Second
	// Half of what the server takes into the queue of a stream before it refuses what comes.
	inFlightBytesMax = 64 << 20
)

type options struct {
	servers              string
	runs, connections    int
	spread               int // streams
	responses, burst     uint64
	batchBytes, inFlight int
	every                time.Duration
	subjects             []string // one for each run
}

func main() {
	log.SetFlags(0)
	o := parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := load(ctx, o); err != nil {
		log.Fatal(err)
	}
}

func parse() options {
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), `Publishes responses of %d bytes on the subjects of a JetStream stream (file storage, one replica), one subject for each
run, receives each with an ordered consumer at the same time, and prints what it measured as one JSON object. How often
the server syncs is its own configuration. The stream is called %s_0, further ones _1 and so on; it is made anew, and
deleted in the end.

Exit codes: 0 all that was published was received, in order; 1 it was not, or it could not be tried; 2 usage.

`, responseBytes, streamPrefix)
		flag.PrintDefaults()
	}
	o := options{}
	flag.StringVar(&o.servers, "servers", nats.DefaultURL, "`URL` of the server, or several with commas")
	flag.IntVar(&o.runs, "runs", 1000, "so many runs: subjects, and consumers")
	flag.Uint64Var(&o.responses, "messages", 1000, "so many responses of each run")
	flag.IntVar(&o.batchBytes, "batch-bytes", 0, "gather the responses of a run by hand, and publish up to so many bytes as one message (default: one message a response)")
	flag.DurationVar(&o.every, "every", 0, "each run emits one response in so long, by a schedule that waits for nobody (default: as fast as possible)")
	flag.IntVar(&o.spread, "spread", 1, "spread the runs over so many JetStream streams: a consumer of one subject passes over all others in its stream")
	flag.Uint64Var(&o.burst, "burst", 1, "a run publishes so many messages when it is its turn")
	flag.IntVar(&o.connections, "connections", 2, "so many connections that publish, and as many that receive")
	flag.IntVar(&o.inFlight, "in-flight", 8192, "so many messages in all may wait for their acknowledgement, and at most 64 MiB; a stream refuses what is more than 10,000 or 128 MiB")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		usage("unexpected argument %q", flag.Arg(0))
	case o.runs < 1 || o.responses < 1 || o.connections < 1 || o.inFlight < 1 || o.spread < 1 || o.burst < 1:
		usage("-runs, -messages, -connections, -in-flight, -spread and -burst are at least 1")
	case o.batchBytes != 0 && o.batchBytes < responseBytes:
		usage("-batch-bytes is at least the %d of one response", responseBytes)
	case o.every < 0:
		usage("-every is not negative")
	case o.every > 0 && (o.batchBytes > 0 || o.burst > 1):
		usage("-every is for single messages: without -batch-bytes and -burst")
	}
	o.connections, o.spread = min(o.connections, o.runs), min(o.spread, o.runs)
	for run := range o.runs {
		o.subjects = append(o.subjects, fmt.Sprintf("%s.%d", o.stream(run), run))
	}
	return o
}

func usage(format string, arguments ...any) {
	log.Printf(format+" (-help says more)", arguments...)
	os.Exit(2)
}

func load(ctx context.Context, o options) error {
	stream, err := connect(o.servers)
	if err != nil {
		return err
	}
	defer stream.Conn().Close()
	if most := stream.Conn().MaxPayload(); int64(o.batchBytes) > most {
		return fmt.Errorf("-batch-bytes %d is more than the server takes in one message (%d)", o.batchBytes, most)
	}
	for n := range o.spread {
		if err := o.makeStream(ctx, stream, n); err != nil {
			return err
		}
		defer stream.DeleteStream(context.Background(), o.stream(n)) // in vain where the server is gone
	}

	reception := newReception(o)
	defer reception.close()
	if err := reception.subscribe(ctx, o); err != nil {
		return err
	}
	publishers := make([]*publisher, o.connections)
	for n := range publishers {
		if publishers[n], err = newPublisher(o); err != nil {
			return err
		}
		defer publishers[n].Conn().Close()
	}

	watch := reception.start()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var published atomic.Uint64
	var publishing sync.WaitGroup
	for n, publisher := range publishers {
		publishing.Go(func() {
			count, err := emit(ctx, o, n, publisher, watch.Begin)
			published.Add(count)
			if err != nil {
				cancel(fmt.Errorf("cannot publish: %w", err))
			}
		})
	}
	missing := reception.wait(ctx)
	result := report.Sum(reception.recorders, watch, true)
	if missing != nil {
		cancel(missing)
	}
	publishing.Wait()

	result.Target, result.Connections, result.Streams = o.servers, o.connections, (o.runs+o.connections-1)/o.connections
	if err := result.Print(); err != nil {
		return err
	}
	log.Printf("published and acknowledged %d, received %d, errors of consumers %d",
		published.Load(), result.Responses, reception.errors.Load())
	switch wanted := uint64(o.runs) * o.responses; {
	case missing != nil:
		return missing
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case published.Load() != wanted || result.Responses != wanted:
		return fmt.Errorf("these are not the %d that were wanted", wanted)
	case result.SequenceErrors > 0:
		return fmt.Errorf("%d responses did not have the sequence that was next", result.SequenceErrors)
	}
	return nil
}

func connect(servers string, options ...jetstream.JetStreamOpt) (jetstream.JetStream, error) {
	lost := func(_ *nats.Conn, err error) {
		if err != nil { // nil when it was closed here
			log.Fatalf("the connection with %s was lost: %v", servers, err)
		}
	}
	conn, err := nats.Connect(servers, nats.Name("outflow bench"), nats.DisconnectErrHandler(lost))
	if err != nil {
		return nil, fmt.Errorf("no connection with %s: %w", servers, err)
	}
	return jetstream.New(conn, append(options, jetstream.WithDefaultTimeout(patience))...)
}

func (o options) makeStream(ctx context.Context, js jetstream.JetStream, n int) error {
	if err := js.DeleteStream(ctx, o.stream(n)); err != nil && err != jetstream.ErrStreamNotFound {
		return fmt.Errorf("cannot delete the stream of an earlier run (is JetStream on?): %w", err)
	}
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name:     o.stream(n),
		Subjects: []string{o.stream(n) + ".*"},
		Storage:  jetstream.FileStorage,
		Replicas: 1,
	})
	if err != nil {
		return fmt.Errorf("cannot make the stream: %w", err)
	}
	return nil
}

// stream is the name of a run's stream.
func (o options) stream(run int) string {
	return fmt.Sprintf("%s_%d", streamPrefix, run%o.spread)
}
