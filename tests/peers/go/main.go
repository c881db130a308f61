// Fetches an X509-SVID with go-spiffe, then watches until it has seen three; one line for each.
//
//	usage: watch SOCKET
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
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
	watcher := &watcher{seen: map[string]bool{}, enough: cancel}
	if err := client.WatchX509Context(ctx, watcher); len(watcher.seen) < 3 {
		return fmt.Errorf("saw %d: %w", len(watcher.seen), err)
	}
	return nil
}

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
