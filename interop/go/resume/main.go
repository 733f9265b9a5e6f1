// Reads a run to its end in Go, over as many streams as it takes; prints `sequence result`.
package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "outflow/interop/go/stream"
)

// [resume]
// fetch hands on every response of a run once and in order, whatever happens to client, network and server.
func fetch(ctx context.Context, client pb.StreamServiceClient, request *pb.Request, each func(*pb.Response)) error {
	request.IdempotencyKey = cmp.Or(request.IdempotencyKey, rand.Text()) // finds the run if its headers got lost
	pause, progress := 100*time.Millisecond, time.Now()
	for {
		stream, err := client.FetchResponse(ctx, request)
		for err == nil {
			var response *pb.Response
			if response, err = stream.Recv(); err == nil && response.Sequence > 0 { // else a heartbeat
				header, _ := stream.Header()
				if durability := header.Get("outflow-durability"); len(durability) > 0 && durability[0] != "none" {
					request = &pb.Request{RunId: header.Get("outflow-run-id")[0], After: response.Sequence}
				}
				pause, progress = 100*time.Millisecond, time.Now()
				each(response)
			}
		}
		code, told := status.Code(err), map[string][]string{}
		if stream != nil {
			told = stream.Trailer()
		}
		madeHere := []codes.Code{codes.Canceled, codes.Unknown, codes.Internal, codes.ResourceExhausted}
		broke := slices.Contains(madeHere, code) && told["outflow-last-sequence"] == nil
		if errors.Is(err, io.EOF) || ctx.Err() != nil || told["outflow-end"] != nil || !(code == codes.Unavailable || broke) || time.Since(progress) > 5*time.Minute {
			return err
		}
		time.Sleep(pause/2 + mathrand.N(pause/2))
		pause = min(2*pause, 5*time.Second)
	}
}
// [/resume]

func main() {
	port := flag.Int("port", 50005, "the server's port")
	flag.Parse() // then NAME=VALUE, for the source

	// A connection that a network has forgotten is noticed, and a server that was away is tried again soon.
	often := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", *port),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: often, MinConnectTimeout: time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		log.Fatalf("can not connect with server %v", err)
	}
	parameters := map[string]string{}
	for _, argument := range flag.Args() {
		name, value, _ := strings.Cut(argument, "=")
		parameters[name] = value
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	request := &pb.Request{Id: 1, Parameters: parameters, Linger: durationpb.New(time.Minute)}
	err = fetch(context.Background(), pb.NewStreamServiceClient(conn), request, func(response *pb.Response) {
		fmt.Fprintln(out, response.Sequence, response.Result)
	})
	if err != nil && !errors.Is(err, io.EOF) {
		out.Flush()
		log.Fatalf("cannot receive %v", err)
	}
}
