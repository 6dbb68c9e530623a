"""The one command for a machine with a GPU: ``python -m benchmarks device``.

=====================  ===============================================================
`command`              the parts in order, their time, the file with the results
`cells`                what is checked and raced, on which shapes
`suite`                the project's own tests of a device, in processes of their own
`worker`, `tasks`      a process that works on the device, and what it is asked for
`takers`               who takes part: jaxqr, jnp, PyTorch and CuPy on the device
`rates`                what the device can do: copies, products, launches, loops
`races`                one cell: who is right, and how long a call takes
`tables`               what is printed
=====================  ===============================================================
"""
