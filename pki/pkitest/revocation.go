package pkitest

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"testing"

	"github.com/mooringlib/mooring/pki"
)

// Cases are the certificates that [Revocation] asks about.
type Cases struct {
	// Issuer has issued all of them.
	Issuer *x509.Certificate
	// Good is not revoked, Revoked is.
	Good, Revoked *x509.Certificate
	// Unknown is one of which the checker knows nothing, with its issuer.
	Unknown, UnknownIssuer *x509.Certificate
}

// Revocation tests a checker.
func Revocation(t *testing.T, r pki.RevocationChecker, c Cases) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if revoked, _, _, err := r.CheckRevocation(t.Context(), c.Good, c.Issuer); revoked || err != nil {
				t.Errorf("good: %v, %v", revoked, err)
			}
			if revoked, _, at, err := r.CheckRevocation(t.Context(), c.Revoked, c.Issuer); !revoked || err != nil || at.IsZero() {
				t.Errorf("revoked: %v, %v, %v", revoked, at, err)
			}
			if revoked, _, _, err := r.CheckRevocation(t.Context(), c.Unknown, c.UnknownIssuer); revoked || err == nil {
				t.Errorf("unknown: %v, %v", revoked, err)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// It may answer from memory all the same, but it must not say good when it
	// gave up.
	if revoked, _, _, err := r.CheckRevocation(ctx, c.Revoked, c.Issuer); !revoked && err == nil {
		t.Error("a context that has ended made a revoked certificate good")
	} else if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
