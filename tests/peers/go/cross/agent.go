package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// agent is one of the agents: what it gives, followed, and a listener that shows its X509-SVID.
type agent struct {
	client   *workloadapi.Client
	x509     *workloadapi.X509Source
	jwt      *workloadapi.JWTSource
	listener net.Listener
}

func connect(ctx context.Context, address string) (*agent, error) {
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(address))
	if err != nil {
		return nil, err
	}
	certificates, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return nil, err
	}
	tokens, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClient(client))
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	agent := &agent{client: client, x509: certificates, jwt: tokens, listener: listener}
	go agent.serve()
	return agent, nil
}

func (a *agent) close() {
	a.listener.Close()
	a.jwt.Close()
	a.x509.Close()
	a.client.Close()
}

func (a *agent) name() string {
	svid, err := a.x509.GetX509SVID()
	if err != nil {
		return err.Error()
	}
	return svid.ID.String()
}

// serve answers every caller that it trusts with one byte.
func (a *agent) serve() {
	config := tlsconfig.MTLSServerConfig(a.x509, a.x509, tlsconfig.AuthorizeAny())
	for {
		connection, err := a.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer connection.Close()
			_ = connection.SetDeadline(time.Now().Add(patience))
			_, _ = tls.Server(connection, config).Write([]byte{1})
		}()
	}
}

// handshake lets the giver call the judge. The byte says that the judge has accepted the giver's certificate, too.
func handshake(ctx context.Context, giver, judge *agent) error {
	callee, err := judge.x509.GetX509SVID()
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSClientConfig(giver.x509, giver.x509, tlsconfig.AuthorizeID(callee.ID))
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dialer := &tls.Dialer{Config: config}
	connection, err := dialer.DialContext(ctx, "tcp", judge.listener.Addr().String())
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(patience))
	_, err = connection.Read(make([]byte, 1))
	return err
}

// token fetches a JWT-SVID, which the judge must accept. Returns the ID of the key that signed it.
func token(ctx context.Context, giver, judge *agent) (string, error) {
	svid, err := giver.jwt.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "cross"})
	if err != nil {
		return "", err
	}
	text := svid.Marshal()
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", err
	}
	key := parsed.Headers[0].KeyID
	if _, err := jwtsvid.ParseAndValidate(text, judge.jwt, []string{"cross"}); err != nil {
		return key, fmt.Errorf("by its bundles: %w", err)
	}
	if _, err := judge.client.ValidateJWTSVID(ctx, text, "cross"); err != nil {
		return key, fmt.Errorf("by ValidateJWTSVID: %w", err)
	}
	return key, nil
}

const patience = 20 * time.Second
