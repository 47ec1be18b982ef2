package autoinstall_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mooringlib/mooring/autoinstall"
	"github.com/mooringlib/mooring/internal/cms"
	"github.com/mooringlib/mooring/internal/durable"
	"github.com/mooringlib/mooring/internal/durable/durabletest"
)

// inForce is the whole configuration and the parts on top of it.
func (b *bench) inForce(t *testing.T) string {
	t.Helper()
	whole, err := os.ReadFile(b.path)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	require.NoError(t, err)
	parts, err := autoinstall.NewFileInstaller(b.path).Parts(t.Context())
	require.NoError(t, err)
	all := []string{string(whole)}
	for _, p := range parts {
		content, err := os.ReadFile(p)
		require.NoError(t, err)
		all = append(all, string(content))
	}
	return strings.Join(all, " ")
}

func (b *bench) load(t *testing.T, content string, part bool) {
	t.Helper()
	require.NoError(t, b.device(t).Load(t.Context(), []byte(content), autoinstall.Load{Part: part}))
}

// stopping is a device whose disk stops somewhere.
func (b *bench) stopping(disk durable.Writer) (*autoinstall.Device, error) {
	cfg := b.cfg.WithDisk(disk)
	cfg.Installer = autoinstall.NewFileInstaller(b.path).WithDisk(disk)
	return autoinstall.New(cfg)
}

func TestPartsAreKeptInTheirOrder(t *testing.T) {
	b := newBench(t, nil)
	b.load(t, "whole", false)
	for _, part := range []string{"z", "a", "m", "z"} {
		b.load(t, part, true)
	}
	b.load(t, "z", true)
	require.Equal(t, "whole z a m z", b.inForce(t))
	b.load(t, "other", false)
	require.Equal(t, "other", b.inForce(t))
	b.load(t, "whole", false)
	require.Equal(t, "whole", b.inForce(t), "old parts don't come back with their whole")
}

func TestAPartNeedsAWhole(t *testing.T) {
	b := newBench(t, nil)
	load := func() error {
		return b.device(t).Load(t.Context(), []byte("part"), autoinstall.Load{Source: "usb", Part: true})
	}
	require.ErrorIs(t, load(), autoinstall.ErrNoWhole)
	require.ErrorIs(t, load(), autoinstall.ErrRefused)
	require.NoDirExists(t, b.path+".d")
	b.load(t, "whole", false)
	require.NoError(t, load())
	require.NoError(t, b.device(t).Reset(t.Context()))
	require.NoDirExists(t, b.path+".d")
	require.ErrorIs(t, load(), autoinstall.ErrNoWhole)
	c := &autoinstall.Configuration{Content: []byte("part"), Part: true}
	require.ErrorIs(t, autoinstall.NewFileInstaller(b.path).Install(t.Context(), c), autoinstall.ErrNoWhole)
}

func TestPartsAreBounded(t *testing.T) {
	b := newBench(t, nil)
	b.load(t, "whole", false)
	b.load(t, "part", true)
	parts, err := autoinstall.NewFileInstaller(b.path).Parts(t.Context())
	require.NoError(t, err)
	require.NoError(t, os.Rename(parts[0], filepath.Join(filepath.Dir(parts[0]), "1000-x.cfg")))
	err = b.device(t).Load(t.Context(), []byte("more"), autoinstall.Load{Part: true})
	require.ErrorContains(t, err, "1000 parts")
	require.Equal(t, "whole part", b.inForce(t))
}

func TestAPartOfAWholeThatIsGoneIsInstalledAgain(t *testing.T) {
	b := newBench(t, nil)
	b.load(t, "whole", false)
	b.load(t, "part", true)
	require.NoError(t, os.WriteFile(b.path, []byte("by hand"), 0o600))
	b.load(t, "part", true)
	require.Equal(t, "by hand part", b.inForce(t))
}

func TestStopAtEveryStepOfAWholeKeepsPartsRight(t *testing.T) {
	for name, whole := range map[string]string{"another": "new", "the same": "old"} {
		t.Run(name, func(t *testing.T) {
			durabletest.EachStop(t,
				func(t *testing.T) *bench {
					b := newBench(t, nil)
					b.load(t, "old", false)
					b.load(t, "p", true)
					b.load(t, "q", true)
					return b
				},
				func(b *bench, disk durable.Writer) error {
					d, err := b.stopping(disk)
					if err != nil {
						return err
					}
					return d.Load(context.Background(), []byte(whole), autoinstall.Load{})
				},
				func(t *testing.T, b *bench, done bool) {
					got := b.inForce(t)
					require.Contains(t, []string{"old p q", whole}, got)
					if done {
						require.Equal(t, whole, got)
					}
					// A part that the device takes for installed is there.
					b.load(t, "q", true)
					require.Equal(t, strings.TrimSuffix(got, " q")+" q", b.inForce(t))
					b.load(t, whole, false)
					require.Equal(t, whole, b.inForce(t))
				})
		})
	}
}

func TestStopAtEveryStepOfTheSameWholeDoesNotHideParts(t *testing.T) {
	// As above, but the first thing after the crash is the whole once more.
	durabletest.EachStop(t,
		func(t *testing.T) *bench {
			b := newBench(t, nil)
			b.load(t, "old", false)
			b.load(t, "p", true)
			return b
		},
		func(b *bench, disk durable.Writer) error {
			d, err := b.stopping(disk)
			if err != nil {
				return err
			}
			return d.Load(context.Background(), []byte("old"), autoinstall.Load{})
		},
		func(t *testing.T, b *bench, _ bool) {
			b.load(t, "old", false)
			require.Equal(t, "old", b.inForce(t))
		})
}

func TestStopAtEveryStepOfAReset(t *testing.T) {
	durabletest.EachStop(t,
		func(t *testing.T) *bench {
			b := newBench(t, nil)
			b.load(t, "old", false)
			b.load(t, "p", true)
			return b
		},
		func(b *bench, disk durable.Writer) error {
			d, err := b.stopping(disk)
			if err != nil {
				return err
			}
			return d.Reset(context.Background())
		},
		func(t *testing.T, b *bench, done bool) {
			got := b.inForce(t)
			require.Contains(t, []string{"old p", ""}, got)
			if done {
				require.Empty(t, got)
			}
			b.load(t, "old", false)
			require.Equal(t, "old", b.inForce(t))
		})
}

func TestStopAtEveryStepOfAPart(t *testing.T) {
	owner := ecIdentity(t, "owner")
	part := owner.sign(t, "p", cms.OwnerClaims{Counter: 5})
	between := owner.sign(t, "evil", cms.OwnerClaims{Counter: 4})
	durabletest.EachStop(t,
		func(t *testing.T) *bench {
			b := newBench(t, func(c *autoinstall.Config) { c.Owner = &autoinstall.OwnerPolicy{Roots: owner.pool()} })
			whole := owner.sign(t, "whole", cms.OwnerClaims{Counter: 1})
			require.NoError(t, b.device(t).Load(t.Context(), whole, autoinstall.Load{}))
			return b
		},
		func(b *bench, disk durable.Writer) error {
			d, err := b.stopping(disk)
			if err != nil {
				return err
			}
			return d.Load(context.Background(), part, autoinstall.Load{Part: true})
		},
		func(t *testing.T, b *bench, done bool) {
			got := b.inForce(t)
			require.Contains(t, []string{"whole", "whole p"}, got)
			if done {
				require.Equal(t, "whole p", got)
			}
			if got == "whole p" {
				err := b.device(t).Load(t.Context(), between, autoinstall.Load{Part: true})
				require.ErrorIs(t, err, autoinstall.ErrRollback, "what is in force has counter 5")
			}
			require.NoError(t, b.device(t).Load(t.Context(), part, autoinstall.Load{Part: true}))
			require.Equal(t, "whole p", b.inForce(t))
		})
}
