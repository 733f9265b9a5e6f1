package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A response: when it was emitted, in nanoseconds since the Unix epoch; its sequence within its run; eight bytes of nothing.
const responseBytes = 24

// encode makes one message of responses that are emitted now.
func encode(after uint64, count int) []byte {
	message := make([]byte, count*responseBytes)
	now := uint64(time.Now().UnixNano())
	for n := range count {
		response := message[n*responseBytes:]
		binary.LittleEndian.PutUint64(response, now)
		binary.LittleEndian.PutUint64(response[8:], after+uint64(n)+1)
	}
	return message
}

// emit publishes the responses of every run that belongs to this connection, the runs in turn, and says how many were
// acknowledged.
func emit(ctx context.Context, o options, connection int, publisher *publisher, begin time.Time) (uint64, error) {
	message := uint64(max(1, o.batchBytes/responseBytes)) // in responses, as all that follows
	turn := message * o.burst
	published := uint64(0)
	for from := uint64(0); from < o.responses; from += turn {
		until := min(from+turn, o.responses)
		for run := connection; run < o.runs; run += o.connections {
			if o.every > 0 {
				// The runs follow each other evenly, so that many of them are no burst.
				offset := o.every * time.Duration(run) / time.Duration(o.runs)
				time.Sleep(time.Until(begin.Add(time.Duration(from)*o.every + offset)))
			}
			for after := from; after < until; after += message {
				if ctx.Err() != nil {
					return 0, context.Cause(ctx)
				}
				count := min(message, until-after)
				if err := publisher.publish(run, encode(after, int(count))); err != nil {
					return 0, err
				}
				published += count
			}
		}
	}
	return published, publisher.complete()
}

// inFlightEach is the limit of one connection, in messages.
func (o options) inFlightEach() int {
	return max(1, min(o.inFlight, inFlightBytesMax/max(1, o.batchBytes))/o.connections)
}

// publisher is one connection that publishes. Fast-ingest batches instead (one acknowledgement for many messages) were
// tried: they were no faster, since the consumers are what takes the server's time.
type publisher struct {
	jetstream.JetStream
	subjects []string
	failure  atomic.Pointer[error]
}

func newPublisher(o options) (*publisher, error) {
	p := &publisher{subjects: o.subjects}
	js, err := connect(o.servers,
		jetstream.WithPublishAsyncMaxPending(o.inFlightEach()),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
			p.failure.CompareAndSwap(nil, &err)
		}))
	p.JetStream = js
	return p, err
}

// Without it a publisher gives up after 200 ms at its limit in flight.
var stallWait = jetstream.WithStallWait(patience)

func (p *publisher) publish(run int, message []byte) error {
	if failure := p.failure.Load(); failure != nil {
		return *failure
	}
	_, err := p.PublishAsync(p.subjects[run], message, stallWait)
	return err
}

// complete waits until all of it is acknowledged.
func (p *publisher) complete() error {
	select {
	case <-p.PublishAsyncComplete():
	case <-time.After(patience):
		return fmt.Errorf("%d messages are not acknowledged after %v", p.PublishAsyncPending(), patience)
	}
	if failure := p.failure.Load(); failure != nil {
		return *failure
	}
	return nil
}
