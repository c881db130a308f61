// Follows the Workload API with each source and each watcher of go-spiffe, and prints what one has whenever it changes.
//
// A line of standard input is an audience: the program fetches a JWT-SVID for it, and has the token, and the X509-SVID of that
// moment, validated by everybody who can: the sources and the agent.
//
//	usage: sources SOCKET
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if err := run("unix://" + os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// sources are all that go-spiffe has, on one client.
type sources struct {
	client *workloadapi.Client
	x509   *workloadapi.X509Source
	jwt    *workloadapi.JWTSource
	bundle *workloadapi.BundleSource
	own    spiffeid.TrustDomain
}

func run(address string) error {
	ctx := context.Background()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(address))
	if err != nil {
		return err
	}
	defer client.Close()
	s := &sources{client: client}
	if s.x509, err = workloadapi.NewX509Source(ctx, workloadapi.WithClient(client)); err != nil {
		return err
	}
	if s.jwt, err = workloadapi.NewJWTSource(ctx, workloadapi.WithClient(client)); err != nil {
		return err
	}
	if s.bundle, err = workloadapi.NewBundleSource(ctx, workloadapi.WithClient(client)); err != nil {
		return err
	}
	svid, err := s.x509.GetX509SVID()
	if err != nil {
		return err
	}
	s.own = svid.ID.TrustDomain()
	fmt.Println("the default identity is", svid.ID)
	watcher := &watcher{own: s.own}
	go client.WatchX509Context(ctx, watcher)
	go client.WatchX509Bundles(ctx, watcher)
	go client.WatchJWTBundles(ctx, watcher)
	go s.follow()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		key, err := s.validate(ctx, lines.Text())
		if err != nil {
			return fmt.Errorf("for %s: %w", lines.Text(), err)
		}
		fmt.Println("valid for", lines.Text(), "by the key", key)
	}
	return nil
}

// follow prints what the sources have, first and after each update.
func (s *sources) follow() {
	var seen serials
	for {
		svid, _ := s.x509.GetX509SVID()
		authorities, _ := s.x509.GetX509BundleForTrustDomain(s.own)
		keys, _ := s.jwt.GetJWTBundleForTrustDomain(s.own)
		both, _ := s.bundle.GetBundleForTrustDomain(s.own)
		fmt.Printf("X509Source: SVID %d, %d authorities\n", seen.number(svid), len(authorities.X509Authorities()))
		fmt.Printf("JWTSource: %d keys\n", len(keys.JWTAuthorities()))
		fmt.Printf("BundleSource: %d authorities, %d keys\n", len(both.X509Authorities()), len(both.JWTAuthorities()))
		select {
		case <-s.x509.Updated():
		case <-s.jwt.Updated():
		case <-s.bundle.Updated():
		}
	}
}

// validate returns the ID of the key that has signed the token.
func (s *sources) validate(ctx context.Context, audience string) (string, error) {
	x509, err := s.x509.GetX509SVID()
	if err != nil {
		return "", err
	}
	if _, _, err := x509svid.Verify(x509.Certificates, s.bundle); err != nil {
		return "", err
	}
	svid, err := s.jwt.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return "", err
	}
	token := svid.Marshal()
	for _, keys := range []jwtbundle.Source{s.jwt, s.bundle} {
		if _, err := jwtsvid.ParseAndValidate(token, keys, []string{audience}); err != nil {
			return "", err
		}
	}
	if _, err := s.client.ValidateJWTSVID(ctx, token, audience); err != nil {
		return "", err
	}
	if _, err := s.client.ValidateJWTSVID(ctx, forged(token), audience); err == nil {
		return "", errors.New("the agent finds a forged one valid")
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", err
	}
	return parsed.Headers[0].KeyID, nil
}

// forged is the token with another signature. The client does not look at signatures, so only the agent can refuse it.
func forged(token string) string {
	dot := strings.LastIndex(token, ".")
	first := "A"
	if token[dot+1] == 'A' {
		first = "B"
	}
	return token[:dot+1] + first + token[dot+2:]
}

// watcher prints what the streams say. An SVID must be good by the bundles that came with it.
type watcher struct {
	own  spiffeid.TrustDomain
	seen serials
}

func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	svid := update.DefaultSVID()
	if _, _, err := x509svid.Verify(svid.Certificates, update.Bundles); err != nil {
		fmt.Println("WatchX509Context:", err)
		return
	}
	bundle, _ := update.Bundles.Get(w.own)
	fmt.Printf("WatchX509Context: SVID %d, %d authorities\n", w.seen.number(svid), len(bundle.X509Authorities()))
}

func (w *watcher) OnX509BundlesUpdate(set *x509bundle.Set) {
	bundle, _ := set.Get(w.own)
	fmt.Printf("WatchX509Bundles: %d authorities\n", len(bundle.X509Authorities()))
}

func (w *watcher) OnJWTBundlesUpdate(set *jwtbundle.Set) {
	bundle, _ := set.Get(w.own)
	fmt.Printf("WatchJWTBundles: %d keys\n", len(bundle.JWTAuthorities()))
}

func (w *watcher) OnX509ContextWatchError(err error) { fmt.Println("WatchX509Context:", err) }
func (w *watcher) OnX509BundlesWatchError(err error) { fmt.Println("WatchX509Bundles:", err) }
func (w *watcher) OnJWTBundlesWatchError(err error)  { fmt.Println("WatchJWTBundles:", err) }

// serials numbers SVIDs in the order in which they were seen first.
type serials struct {
	sync.Mutex
	numbers map[string]int
}

func (s *serials) number(svid *x509svid.SVID) int {
	s.Lock()
	defer s.Unlock()
	if s.numbers == nil {
		s.numbers = map[string]int{}
	}
	serial := svid.Certificates[0].SerialNumber.String()
	if s.numbers[serial] == 0 {
		s.numbers[serial] = len(s.numbers) + 1
	}
	return s.numbers[serial]
}
