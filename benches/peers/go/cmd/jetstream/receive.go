package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"outflow/benches/peers/go/internal/report"
)

// reception is all consumers.
type reception struct {
	connections []jetstream.JetStream
	recorders   []*report.Recorder
	watch       report.Stopwatch // started before anything is published
	unfinished  atomic.Int64
	finished    chan struct{}
	errors      atomic.Uint64
}

func newReception(o options) *reception {
	r := &reception{recorders: report.NewRecorders(o.runs), finished: make(chan struct{})}
	r.unfinished.Store(int64(o.runs))
	return r
}

func (r *reception) start() report.Stopwatch {
	r.watch = report.Start()
	return r.watch
}

func (r *reception) close() {
	for _, js := range r.connections {
		js.Conn().Close()
	}
}

// subscribe makes a consumer for each run.
func (r *reception) subscribe(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var subscribing sync.WaitGroup
	for connection := range o.connections {
		js, err := connect(o.servers)
		if err != nil {
			return err
		}
		r.connections = append(r.connections, js)
		subscribing.Go(func() {
			for run := connection; run < o.runs; run += o.connections {
				if err := r.consume(ctx, js, run, o); err != nil {
					cancel(fmt.Errorf("cannot make the consumer of run %d: %w", run, err))
					return
				}
			}
			if err := js.Conn().Flush(); err != nil { // they have all asked, before the first message comes
				cancel(err)
			}
		})
	}
	subscribing.Wait()
	return context.Cause(ctx)
}

// consume begins one run's consumer: an ordered one, which acknowledges nothing and keeps no state on disk.
func (r *reception) consume(ctx context.Context, js jetstream.JetStream, run int, o options) error {
	consumer, err := js.OrderedConsumer(ctx, o.stream(run), jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{o.subjects[run]},
	})
	if err != nil {
		return err
	}
	reader := &reader{recorder: r.recorders[run%len(r.recorders)]}
	_, err = consumer.Consume(func(message jetstream.Msg) {
		if reader.take(message.Data(), r.watch.Begin, o.responses) && r.unfinished.Add(-1) == 0 {
			close(r.finished)
		}
	}, o.pull(), jetstream.ConsumeErrHandler(func(jetstream.ConsumeContext, error) { r.errors.Add(1) }))
	return err
}

// pull is how many messages a consumer asks for at once: as many as usual, but all consumers of a connection together at
// most 48 MiB, since the server throws a connection out as slow when 64 MiB wait for it.
func (o options) pull() jetstream.PullMaxMessages {
	const aroundEach = 128 // bytes, for subjects
	consumers := (o.runs + o.connections - 1) / o.connections
	most := 48 << 20 / (consumers * (max(responseBytes, o.batchBytes) + aroundEach))
	return jetstream.PullMaxMessages(max(1, min(most, jetstream.DefaultMaxMessages)))
}

// wait waits until every run has all of its responses.
func (r *reception) wait(ctx context.Context) error {
	ticker := time.NewTicker(patience)
	defer ticker.Stop()
	for before := uint64(0); ; {
		select {
		case <-r.finished:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
			received := uint64(0)
			for _, recorder := range r.recorders {
				recorder.Lock()
				received += recorder.Responses
				recorder.Unlock()
			}
			if received == before {
				return fmt.Errorf("nothing was received for %v: %d runs still wait", patience, r.unfinished.Load())
			}
			before = received
		}
	}
}

// reader is one run's place. It is used by its consumer only.
type reader struct {
	recorder *report.Recorder
	sequence uint64
	previous time.Time
}

// take takes a message's responses, and says whether the run is complete with them.
func (r *reader) take(message []byte, begin time.Time, responses uint64) bool {
	now := time.Now()
	count := len(message) / responseBytes
	r.recorder.Lock()
	defer r.recorder.Unlock()
	if r.sequence == 0 {
		report.Record(r.recorder.First, now.Sub(begin), 1)
	} else {
		report.Record(r.recorder.Gap, now.Sub(r.previous), 1)
	}
	if count > 1 {
		report.Record(r.recorder.Gap, 0, count-1)
	}
	// The responses of a message have the same stamp.
	emitted := time.Unix(0, int64(binary.LittleEndian.Uint64(message)))
	report.Record(r.recorder.Latency, now.Sub(emitted), count)
	for ; len(message) > 0; message = message[responseBytes:] {
		r.sequence++
		if binary.LittleEndian.Uint64(message[8:]) != r.sequence {
			r.recorder.SequenceErrors++
		}
	}
	r.recorder.Responses += uint64(count)
	r.recorder.Bytes += uint64(count) * responseBytes
	r.previous = now
	if r.sequence != responses {
		return false
	}
	r.recorder.Calls++
	r.recorder.Statuses["OK"]++
	report.Record(r.recorder.Total, now.Sub(begin), 1)
	return true
}
