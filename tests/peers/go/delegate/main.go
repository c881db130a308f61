// Asks an agent's admin socket for the identities of others with the client that SPIRE publishes, and prints one line for each
// thing that it is told. An SVID is shown once its key fits, and the bundles that the same agent gives verify it.
//
//	usage: delegate SOCKET first  [PID] [TYPE:VALUE]...   one answer of SubscribeToX509SVIDs
//	       delegate SOCKET follow [PID] [TYPE:VALUE]...   each that differs from the one before, until the agent ends the stream
//	       delegate SOCKET bundles                        one answer of SubscribeToX509Bundles
//	       delegate SOCKET follow-bundles                 each that differs, until the agent ends the stream
//	       delegate SOCKET many COUNT TYPE:VALUE...       COUNT subscriptions on one connection, each with one selector more,
//	                                                      beside both kinds of bundles and a JWT-SVID, as Cilium has them;
//	                                                      then the next answer of each that differs
package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	delegated "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/delegatedidentity/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(socket, order string, words []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := delegated.NewDelegatedIdentityClient(connection)
	switch order {
	case "bundles", "follow-bundles":
		return bundles(ctx, client, order == "bundles")
	case "many":
		return many(ctx, client, words)
	case "first", "follow":
		return svids(ctx, client, request(words), order == "first")
	}
	return fmt.Errorf("no such order: %s", order)
}

// A number is a pid, every other word a selector.
func request(words []string) *delegated.SubscribeToX509SVIDsRequest {
	request := &delegated.SubscribeToX509SVIDsRequest{}
	for _, word := range words {
		if pid, err := strconv.ParseInt(word, 10, 32); err == nil {
			request.Pid = int32(pid)
			continue
		}
		kind, value, _ := strings.Cut(word, ":")
		request.Selectors = append(request.Selectors, &types.Selector{Type: kind, Value: value})
	}
	return request
}

func svids(
	ctx context.Context,
	client delegated.DelegatedIdentityClient,
	request *delegated.SubscribeToX509SVIDsRequest,
	one bool,
) error {
	stream, err := client.SubscribeToX509SVIDs(ctx, request)
	if err != nil {
		return err
	}
	var bundles *x509bundle.Set
	return show(one, func() ([]string, error) {
		answer, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if bundles == nil {
			if bundles, err = firstBundles(ctx, client); err != nil {
				return nil, err
			}
		}
		return describe(answer, bundles)
	})
}

func bundles(ctx context.Context, client delegated.DelegatedIdentityClient, one bool) error {
	stream, err := client.SubscribeToX509Bundles(ctx, &delegated.SubscribeToX509BundlesRequest{})
	if err != nil {
		return err
	}
	return show(one, func() ([]string, error) {
		set, err := nextBundles(stream)
		if err != nil {
			return nil, err
		}
		var lines []string
		// They are ordered by trust domain.
		for _, bundle := range set.Bundles() {
			count := len(bundle.X509Authorities())
			lines = append(lines, fmt.Sprintf("%s has %d authorities", bundle.TrustDomain().IDString(), count))
		}
		return lines, nil
	})
}

// Opens the subscriptions, prints what they are told at first, and waits until each is told of a change.
func many(ctx context.Context, client delegated.DelegatedIdentityClient, words []string) error {
	count, err := strconv.Atoi(words[0])
	if err != nil {
		return err
	}
	x509Bundles, err := client.SubscribeToX509Bundles(ctx, &delegated.SubscribeToX509BundlesRequest{})
	if err != nil {
		return err
	}
	set, err := nextBundles(x509Bundles)
	if err != nil {
		return err
	}
	jwtBundles, err := client.SubscribeToJWTBundles(ctx, &delegated.SubscribeToJWTBundlesRequest{})
	if err != nil {
		return err
	}
	keys, err := jwtBundles.Recv()
	if err != nil {
		return err
	}
	selectors := request(words[1:]).Selectors
	tokens, err := client.FetchJWTSVIDs(ctx, &delegated.FetchJWTSVIDsRequest{Audience: []string{"a"}, Selectors: selectors})
	if err != nil {
		return err
	}
	fmt.Printf("%d bundles, %d key sets, %d tokens\n", set.Len(), len(keys.Bundles), len(tokens.Svids))
	streams := make([]delegated.DelegatedIdentity_SubscribeToX509SVIDsClient, count)
	for place := range streams {
		own := &types.Selector{Type: "k8s", Value: fmt.Sprintf("pod-uid:%d", place)}
		request := &delegated.SubscribeToX509SVIDsRequest{Selectors: append(slices.Clone(selectors), own)}
		if streams[place], err = client.SubscribeToX509SVIDs(ctx, request); err != nil {
			return err
		}
	}
	first := make([]string, count)
	if err := tell("first", streams, set, first); err != nil {
		return err
	}
	return tell("next", streams, set, first)
}

// Prints how many of the streams get which answer. It passes over the answers that are as those before.
func tell(
	what string,
	streams []delegated.DelegatedIdentity_SubscribeToX509SVIDsClient,
	set *x509bundle.Set,
	before []string,
) error {
	told := map[string]int{}
	for place, stream := range streams {
		now := before[place]
		for now == before[place] {
			answer, err := stream.Recv()
			if err != nil {
				return err
			}
			lines, err := describe(answer, set)
			if err != nil {
				return err
			}
			now = lines[0]
		}
		before[place] = now
		told[now]++
	}
	for line, times := range told {
		fmt.Printf("%s: %d times %s\n", what, times, line)
	}
	return nil
}

// Prints one answer, or each that differs from the one before, and what the agent ends the stream with.
func show(one bool, next func() ([]string, error)) error {
	var before []string
	for {
		lines, err := next()
		if err != nil {
			return ended(err)
		}
		if !slices.Equal(lines, before) {
			fmt.Println(strings.Join(lines, "\n"))
		}
		if before = lines; one {
			return nil
		}
	}
}

// What the agent says no with is an outcome like others; a broken connection is not.
func ended(err error) error {
	answer, ok := status.FromError(err)
	if !ok {
		return err
	}
	fmt.Printf("%s: %s\n", answer.Code(), answer.Message())
	return nil
}

func describe(answer *delegated.SubscribeToX509SVIDsResponse, bundles x509bundle.Source) ([]string, error) {
	lines := []string{fmt.Sprintf("%d SVIDs, federated with %q", len(answer.X509Svids), answer.FederatesWith)}
	for _, one := range answer.X509Svids {
		id := spiffeid.RequireFromString("spiffe://" + one.X509Svid.Id.TrustDomain + one.X509Svid.Id.Path)
		var chain []byte
		for _, certificate := range one.X509Svid.CertChain {
			chain = append(chain, certificate...)
		}
		// It compares the key with the leaf's.
		svid, err := x509svid.ParseRaw(chain, one.X509SvidKey)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		verified, _, err := x509svid.Verify(svid.Certificates, bundles)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		if verified != id || svid.Certificates[0].NotAfter.Unix() != one.X509Svid.ExpiresAt {
			return nil, fmt.Errorf("%s: the certificate is of %s until %s", id, verified, svid.Certificates[0].NotAfter)
		}
		lines = append(lines, fmt.Sprintf("%s with the hint %q", id, one.X509Svid.Hint))
	}
	return lines, nil
}

func firstBundles(ctx context.Context, client delegated.DelegatedIdentityClient) (*x509bundle.Set, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.SubscribeToX509Bundles(ctx, &delegated.SubscribeToX509BundlesRequest{})
	if err != nil {
		return nil, err
	}
	return nextBundles(stream)
}

func nextBundles(stream delegated.DelegatedIdentity_SubscribeToX509BundlesClient) (*x509bundle.Set, error) {
	answer, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	set := x509bundle.NewSet()
	for name, ders := range answer.CaCertificates {
		authorities, err := x509.ParseCertificates(ders)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		set.Add(x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(name), authorities))
	}
	return set, nil
}
