from strake_cli.app import main

main()
