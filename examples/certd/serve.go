package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/mooringlib/mooring/pki/jwtauth"
	"github.com/mooringlib/mooring/pki/rest"
)

// shutdownTime is how long calls may still take after the end was asked for.
const shutdownTime = 10 * time.Second

func serve(ctx context.Context, c *cli, args []string) error {
	listen := c.flags.String("listen", "", "`address` to listen on, such as 127.0.0.1:8443")
	if err := c.parse(args, "listen"); err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(c.stderr, nil))
	s, err := c.openWith(ctx, logger)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.ensureHTTPS(ctx, *listen); err != nil {
		return err
	}
	users, err := c.users()
	if err != nil {
		return err
	}
	if len(users) == 0 {
		logger.Warn("nobody can log in; certd init -user NAME -password-file F adds a user")
	}
	keeper, err := jwtauth.New(jwtauth.Config{Users: users})
	if err != nil {
		return err
	}
	auth := &userFile{Authenticator: keeper, c: c, logger: logger}
	handler, err := rest.New(rest.Config{Manager: s.m, Auth: auth, Events: s.audit, Logger: logger})
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: 3 * time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: 32 << 10,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: s.m.GetCertificate(httpsName),
		},
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := c.announce(l.Addr().String()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.m.Run(ctx) }()
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	err = server.ServeTLS(l, "", "")
	cancel()
	<-done
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func (c *cli) announce(addr string) error {
	if c.json {
		return c.printJSON(map[string]string{"listening": "https://" + addr, "ca": c.state("ca.pem")})
	}
	_, err := fmt.Fprintf(c.stdout, "listening on https://%s; clients trust %s\n", addr, c.state("ca.pem"))
	return err
}
