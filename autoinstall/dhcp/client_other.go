//go:build !linux

package dhcp

import (
	"context"
	"errors"
	"fmt"

	"github.com/mooringlib/mooring/autoinstall"
)

var errSystem = fmt.Errorf("dhcp: talking to a link: %w", errors.ErrUnsupported)

func (c *Client) discover4(context.Context) (*autoinstall.Location, error) { return nil, errSystem }

func (c *Client) discover6(context.Context) (*autoinstall.Location, error) { return nil, errSystem }

type systemNetwork struct{}

// Up fails.
func (systemNetwork) Up(context.Context, string) error { return errSystem }

// Apply fails.
func (systemNetwork) Apply(context.Context, string, Settings) (func() error, error) {
	return nil, errSystem
}
