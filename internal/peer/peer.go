// Package peer finds the programs and data of others that the tests talk to.
//
// A missing peer is a failure where MOORING_REQUIRE_PEERS is 1, as it is under
// "make test", and a skip that names what is missing elsewhere.
package peer

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sbin holds the directories that hold servers and are often not on the PATH of
// an ordinary user.
var sbin = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

// Need returns the path of a program.
func Need(tb testing.TB, program string) string {
	tb.Helper()
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	for _, dir := range sbin {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	missing(tb, "the program %q is not installed (make deps installs it)", program)
	return ""
}

// NeedRoot is for tests that mount, make network namespaces or change users.
func NeedRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
}

// Missing ends a test for something that a machine has or has not, such as
// network namespaces: as a failure where peers are required.
func Missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	missing(tb, format, args...)
}

// NeedTestdata returns the path of a file or folder of the conformance data
// that is kept beside the project. It is found where MOORING_TESTDATA points,
// or in ../shared/testdata seen from the root of the module. The data is not
// part of the project, so a checkout without it skips.
func NeedTestdata(tb testing.TB, elem ...string) string {
	tb.Helper()
	root := os.Getenv("MOORING_TESTDATA")
	if root == "" {
		root = filepath.Join(ModuleRoot(tb), "..", "shared", "testdata")
	}
	path := filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		tb.Skipf("conformance data not found at %q; set MOORING_TESTDATA to its folder", path)
	}
	return path
}

// ModuleRoot returns the directory that holds go.mod.
func ModuleRoot(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("no go.mod above the working directory")
		}
		dir = parent
	}
}

func missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("MOORING_REQUIRE_PEERS") == "1" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}
