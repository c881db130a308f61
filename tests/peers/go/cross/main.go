// A workload that several agents serve: what one of them gives it is judged by the bundles of each of the others, over and
// over, until its standard input ends. X509-SVIDs meet in mutual TLS. JWT-SVIDs are validated by the bundles that the
// program follows, and by ValidateJWTSVID. Prints "crossing" when every agent has accepted what each other gave, and in the
// end its figures of the time since then as JSON.
//
//	usage: cross SOCKET SOCKET...
package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// figures are what is printed.
type figures struct {
	Handshakes int      `json:"handshakes"`
	Tokens     int      `json:"tokens"`
	Refused    int      `json:"refused"`
	Agents     []*given `json:"agents"`
}

// given is what one agent gave.
type given struct {
	// The certificates of the longest chain.
	Chain        int `json:"chain"`
	Certificates int `json:"certificates"`
	Keys         int `json:"keys"`
	serials      map[string]bool
	keys         map[string]bool
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(sockets []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	figures := &figures{}
	var agents []*agent
	for _, socket := range sockets {
		agent, err := connect(ctx, "unix://"+socket)
		if err != nil {
			return err
		}
		defer agent.close()
		agents = append(agents, agent)
		figures.Agents = append(figures.Agents, &given{serials: map[string]bool{}, keys: map[string]bool{}})
	}
	// Servers and agents poll, so at first one may not know yet what another already uses.
	for reason := ""; ctx.Err() == nil; pause(ctx) {
		errs := figures.round(ctx, agents)
		if len(errs) == 0 {
			break
		}
		if now := errs[0].Error(); now != reason {
			fmt.Fprintln(os.Stderr, "not yet:", now)
			reason = now
		}
	}
	fmt.Println("crossing")
	figures.Handshakes, figures.Tokens = 0, 0
	for ctx.Err() == nil {
		errs := figures.round(ctx, agents)
		if ctx.Err() != nil {
			break
		}
		for _, err := range errs {
			figures.Refused++
			fmt.Fprintln(os.Stderr, err)
		}
		pause(ctx)
	}
	for _, given := range figures.Agents {
		given.Certificates, given.Keys = len(given.serials), len(given.keys)
	}
	return json.NewEncoder(os.Stdout).Encode(figures)
}

// round lets each agent judge what each other gives at this moment.
func (figures *figures) round(ctx context.Context, agents []*agent) (errs []error) {
	for from, giver := range agents {
		svid, err := giver.x509.GetX509SVID()
		if err == nil {
			err = sound(svid.Certificates)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		given := figures.Agents[from]
		given.serials[svid.Certificates[0].SerialNumber.String()] = true
		given.Chain = max(given.Chain, len(svid.Certificates))
		for to, judge := range agents {
			if from == to {
				continue
			}
			figures.Handshakes++
			if err := handshake(ctx, giver, judge); err != nil {
				errs = append(errs, fmt.Errorf("%s to %s: %w", giver.name(), judge.name(), err))
			}
			figures.Tokens++
			key, err := token(ctx, giver, judge)
			if key != "" {
				given.keys[key] = true
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("a token of %s at %s: %w", giver.name(), judge.name(), err))
			}
		}
	}
	return errs
}

// sound reports whether a chain is as a workload may present it: no root in it, and nothing twice.
func sound(chain []*x509.Certificate) error {
	for place, one := range chain {
		if bytes.Equal(one.RawIssuer, one.RawSubject) && one.CheckSignatureFrom(one) == nil {
			return fmt.Errorf("certificate %d of %d signed itself", place, len(chain))
		}
		for _, other := range chain[:place] {
			if one.Equal(other) {
				return fmt.Errorf("certificate %d of %d is there twice", place, len(chain))
			}
		}
	}
	return nil
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
}
