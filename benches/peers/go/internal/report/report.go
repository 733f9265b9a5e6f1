// Package report measures what a load client receives, and prints it as `outflow bench --format json` does.
package report

import (
	"encoding/json"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is one measurement. What a client does not know is null.
type Report struct {
	Target             string            `json:"target"`
	Connections        int               `json:"connections"`
	Streams            int               `json:"streams"` // at once on each connection
	Calls              uint64            `json:"calls"`   // those included that were cut when the time was over
	Seconds            float64           `json:"seconds"`
	Responses          uint64            `json:"responses"`
	Bytes              uint64            `json:"bytes"` // of messages, without prefixes
	ResponsesPerSecond float64           `json:"responses_per_second"`
	BytesPerSecond     float64           `json:"bytes_per_second"`
	FirstResponse      *Latencies        `json:"first_response_us"` // from the call's start
	Gap                *Latencies        `json:"gap_us"`            // between two responses of a call
	Total              *Latencies        `json:"total_us"`          // from the call's start to its status
	Latency            *Latencies        `json:"latency_us"`        // from emission to receipt
	Statuses           map[string]uint64 `json:"statuses"`
	SequenceErrors     uint64            `json:"sequence_errors"`
	ClientCPUSeconds   float64           `json:"client_cpu_seconds"`
}

// Latencies are microseconds.
type Latencies struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

// Print writes the report to stdout, as one line.
func (r *Report) Print() error {
	return json.NewEncoder(os.Stdout).Encode(r)
}

// Recorder counts and measures for some of the streams. Its user locks it.
type Recorder struct {
	sync.Mutex
	Calls, Responses, Bytes, SequenceErrors uint64
	Statuses                                map[string]uint64
	First, Gap, Total, Latency              *hdrhistogram.Histogram
}

// NewRecorders returns recorders for so many streams: more than there are threads, so that one is seldom waited for, but
// not one for each stream, since each holds about a megabyte.
func NewRecorders(streams int) []*Recorder {
	recorders := make([]*Recorder, min(streams, 4*runtime.GOMAXPROCS(0)))
	for n := range recorders {
		recorders[n] = newRecorder()
	}
	return recorders
}

func newRecorder() *Recorder {
	histogram := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(time.Hour), 3) }
	return &Recorder{
		Statuses: map[string]uint64{},
		First:    histogram(), Gap: histogram(), Total: histogram(), Latency: histogram(),
	}
}

// Record puts a time into a histogram, count times. Clocks that disagree give none below 1 ns, and an hour is the most.
func Record(histogram *hdrhistogram.Histogram, d time.Duration, count int) {
	_ = histogram.RecordValues(int64(min(max(d, 1), time.Hour)), int64(count)) // within its bounds, hence no error
}

func (r *Recorder) add(other *Recorder) {
	r.Calls += other.Calls
	r.Responses += other.Responses
	r.Bytes += other.Bytes
	r.SequenceErrors += other.SequenceErrors
	for status, count := range other.Statuses {
		r.Statuses[status] += count
	}
	r.First.Merge(other.First)
	r.Gap.Merge(other.Gap)
	r.Total.Merge(other.Total)
	r.Latency.Merge(other.Latency)
}

// Sum is what the recorders have, over the time since the stopwatch was started. Latencies from emission are left null
// without stamps.
func Sum(recorders []*Recorder, watch Stopwatch, stamps bool) *Report {
	seconds, cpu := watch.read()
	all := newRecorder()
	for _, recorder := range recorders {
		recorder.Lock()
		all.add(recorder)
		recorder.Unlock()
	}
	report := &Report{
		Calls: all.Calls, Seconds: seconds, Responses: all.Responses, Bytes: all.Bytes,
		ResponsesPerSecond: float64(all.Responses) / seconds, BytesPerSecond: float64(all.Bytes) / seconds,
		FirstResponse: summary(all.First), Gap: summary(all.Gap), Total: summary(all.Total),
		Statuses: all.Statuses, SequenceErrors: all.SequenceErrors, ClientCPUSeconds: cpu,
	}
	if stamps {
		report.Latency = summary(all.Latency)
	}
	return report
}

func summary(h *hdrhistogram.Histogram) *Latencies {
	if h.TotalCount() == 0 {
		return &Latencies{}
	}
	at := func(quantile float64) float64 { return float64(h.ValueAtQuantile(quantile)) / 1e3 }
	return &Latencies{
		Count: h.TotalCount(), Mean: h.Mean() / 1e3,
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1e3,
	}
}

// Stopwatch measures elapsed time and this process's CPU time.
type Stopwatch struct {
	Begin time.Time
	cpu   time.Duration
}

// Start starts one.
func Start() Stopwatch {
	return Stopwatch{time.Now(), cpuTime()}
}

func (s Stopwatch) read() (seconds, cpu float64) {
	return time.Since(s.Begin).Seconds(), (cpuTime() - s.cpu).Seconds()
}

// cpuTime is what the operating system has accounted to this process, user and system.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // it fails only for arguments that are none
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
