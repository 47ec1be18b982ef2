package swtpm

import "syscall"

// sysProcAttr makes the child die with us, however we die, so that its lock on
// the state directory never outlives us.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
