package integrity_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mooringlib/mooring/integrity"
	"github.com/mooringlib/mooring/integrity/integritytest"
)

// A router at the factory and at its first start. A product has
// tpmwrap.NewSealed in place of the fake TPM, and no Kernel in its Config.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	handler, err := integrity.New(integrity.Config{
		Wrapper:     &integritytest.Wrapper{TPM: integritytest.NewTPM()},
		Kernel:      integritytest.NewKernel(dir),
		StateDir:    filepath.Join(dir, "state"),
		Directories: []string{filepath.Join(dir, "config"), filepath.Join(dir, "keys")},
		Emergency:   integrity.Consoles{KernelLog: "-", Paths: []string{filepath.Join(dir, "console")}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := handler.Enable(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("locked:", handler.Lock(ctx) == nil)
	// Run does this at each start, and goes on to watch.
	fmt.Println("event:", handler.RunOnce(ctx))
	st, err := handler.Status(ctx)
	fmt.Println("unlocked:", st.Unlocked, err)
	// Output:
	// locked: true
	// event: <nil>
	// unlocked: true <nil>
}

func ExampleEmergencyText() {
	fmt.Print(integrity.EmergencyText(nil))
	// Output:
	// EMERGENCY: the integrity of this system is compromised.
	// What happened: the protected directories could not be opened (unknown).
	// Networking stays blocked.
	// First: read the log of the integrity handler.
	// If that does not help, only a clean install or an RMA does. A factory reset does not: it needs directories that stay locked.
}
