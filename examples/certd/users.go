package main

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/mooringlib/mooring/pki/jwtauth"
)

// userFile lets in those who are in the file of users now: init may change it
// while the server runs.
type userFile struct {
	*jwtauth.Authenticator
	c      *cli
	logger *slog.Logger

	mu   sync.Mutex
	seen os.FileInfo
}

// Login implements rest.Authenticator.
func (f *userFile) Login(ctx context.Context, from, user, password string) (string, time.Time, error) {
	f.reload(ctx)
	return f.Authenticator.Login(ctx, from, user, password)
}

// Authenticate implements rest.Authenticator.
func (f *userFile) Authenticate(ctx context.Context, token string) (string, error) {
	f.reload(ctx)
	return f.Authenticator.Authenticate(ctx, token)
}

// reload reads the file when it is another one: it is only ever replaced. With
// one that cannot be read nobody gets in.
func (f *userFile) reload(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.c.state("users.json"))
	if err == nil && f.seen != nil && os.SameFile(f.seen, info) && f.seen.ModTime().Equal(info.ModTime()) && f.seen.Size() == info.Size() {
		return
	}
	// A file that changes after this look is read again.
	f.seen = info
	users, err := f.c.users()
	if err != nil {
		f.seen = nil
		f.logger.ErrorContext(ctx, "users cannot be read, so nobody can log in", "error", err)
	}
	f.SetUsers(users)
}
