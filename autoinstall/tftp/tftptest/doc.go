// Package tftptest holds a small TFTP server and a line with delay and loss, for
// tests of TFTP clients. Neither is made for use on a network.
package tftptest
