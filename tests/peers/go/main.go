// Fetches an X509-SVID and a JWT-SVID with go-spiffe, and a secret over SDS with grpc-go, then watches until it has seen three
// X509-SVIDs; one line for each of these.
//
//	usage: watch SOCKET
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	if err := run("unix://" + os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(address))
	if err != nil {
		return err
	}
	defer client.Close()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return err
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	if _, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain()); err != nil {
		return err
	}
	show(svid)
	if err := secret(ctx, address, svid.ID.String()); err != nil {
		return fmt.Errorf("StreamSecrets: %w", err)
	}
	if err := token(ctx, client, svid.ID.TrustDomain()); err != nil {
		return fmt.Errorf("FetchJWTSVID: %w", err)
	}
	watcher := &watcher{seen: map[string]bool{}, enough: cancel}
	if err := client.WatchX509Context(ctx, watcher); len(watcher.seen) < 3 {
		return fmt.Errorf("saw %d: %w", len(watcher.seen), err)
	}
	return nil
}

// Fetches a JWT-SVID, and validates it by the keys that FetchJWTBundles gives.
func token(ctx context.Context, client *workloadapi.Client, own spiffeid.TrustDomain) error {
	source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClient(client))
	if err != nil {
		return err
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "go", ExtraAudiences: []string{"also"}})
	if err != nil {
		return err
	}
	for _, audience := range []string{"go", "also"} {
		if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{audience}); err != nil {
			return err
		}
	}
	_, err = source.GetJWTBundleForTrustDomain(own)
	return err
}

// Asks for a secret by name and takes one response. The connection is grpc-go's as it comes.
func secret(ctx context.Context, address, name string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	method := "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
	description := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := connection.NewStream(ctx, description, method, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	// DiscoveryRequest: 3 is resource_names.
	if err := stream.SendMsg(append([]byte{3<<3 | 2, byte(len(name))}, name...)); err != nil {
		return err
	}
	var response []byte
	if err := stream.RecvMsg(&response); err != nil {
		return err
	}
	if !bytes.Contains(response, []byte(name)) || !bytes.Contains(response, []byte("BEGIN PRIVATE KEY")) {
		return errors.New("the response lacks the name or the key")
	}
	return nil
}

// Messages as bytes.
type raw struct{}

func (raw) Marshal(message any) ([]byte, error) { return message.([]byte), nil }

func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = bytes.Clone(data)
	return nil
}

func (raw) Name() string { return "proto" }

type watcher struct {
	seen   map[string]bool
	enough func()
}

func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	svid := update.DefaultSVID()
	w.seen[svid.Certificates[0].SerialNumber.String()] = true
	show(svid)
	if len(w.seen) == 3 {
		w.enough()
	}
}

func (w *watcher) OnX509ContextWatchError(err error) {
	if len(w.seen) < 3 {
		fmt.Fprintln(os.Stderr, "watch:", err)
	}
}

func show(svid *x509svid.SVID) {
	fmt.Println(svid.ID, svid.Certificates[0].SerialNumber)
}
