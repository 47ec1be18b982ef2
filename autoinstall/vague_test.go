package autoinstall_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/cms"
)

func TestRefusalsWithoutIntegrityLookAlike(t *testing.T) {
	id, stranger := rsaIdentity(t, "device"), ecIdentity(t, "stranger")
	damaged := bytes.Clone(id.sealCBC(t, []byte(config1)))
	damaged[len(damaged)-17] ^= 0xff // the padding
	files := map[string][]byte{
		"damaged padding":      damaged,
		"nonsense":             id.sealCBC(t, []byte("nonsense")),
		"nothing":              id.sealCBC(t, nil),
		"signed by a stranger": id.sealCBC(t, stranger.sign(t, config1, cms.OwnerClaims{})),
		"encrypted twice":      id.sealCBC(t, id.sealCBC(t, []byte(config1))),
	}
	owner := ecIdentity(t, "owner")
	for _, policy := range []*autoinstall.OwnerPolicy{nil, {Roots: owner.pool()}, {Roots: owner.pool(), Optional: true}} {
		var text, reason string
		for name, file := range files {
			synctest.Test(t, func(t *testing.T) {
				var s sink
				b := newBench(t, func(c *autoinstall.Config) {
					c.Owner, c.Alarms, c.Events = policy, &s, &s
					c.Keys = []autoinstall.Key{id.asKey("vendor")}
					c.Sane = func(context.Context, []byte) error {
						time.Sleep(time.Second)
						return errors.New("line 1")
					}
				})
				b.shelf.put(fileURL, file)
				begun := time.Now()
				err := b.device(t).Once(t.Context())
				require.Equal(t, 2*time.Second, time.Since(begun), name)
				require.ErrorIs(t, err, autoinstall.ErrRefused)
				require.ErrorIs(t, err, autoinstall.ErrDecrypt)
				require.ErrorIs(t, err, autoinstall.ErrInsane)
				st, err2 := b.device(t).Status(t.Context())
				require.NoError(t, err2)
				if text == "" {
					text, reason = err.Error(), st.Reason
				}
				require.Equal(t, text, err.Error(), name)
				require.Equal(t, reason, st.Reason, name)
				require.Equal(t, reason, s.alarms["autoinstall.refused"].Text, name)
				require.Len(t, s.events, 1)
				require.NotContains(t, s.events[0].Description, "line 1")
			})
		}
	}
	// What the owner signed is nobody's guess, so the reason is told.
	b := newBench(t, func(c *autoinstall.Config) {
		c.Owner, c.Keys = &autoinstall.OwnerPolicy{Roots: owner.pool()}, []autoinstall.Key{id.asKey("vendor")}
	})
	file := id.sealCBC(t, owner.sign(t, config1, cms.OwnerClaims{Serial: "SN2"}))
	err := b.device(t).Load(t.Context(), file, autoinstall.Load{})
	require.ErrorIs(t, err, autoinstall.ErrOtherDevice)
	require.NotErrorIs(t, err, autoinstall.ErrDecrypt)
}
