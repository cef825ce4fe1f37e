@echo off
rem Called by the start_*.bat files from the project's folder: finds Python, makes the environment
rem when it is missing or out of date, and activates it. Exit code 1: it could not.
rem "if errorlevel" alone decides here, because && and || are not the same everywhere.

set "PYTHON="
py -3 --version >nul 2>nul
if not errorlevel 1 set "PYTHON=py -3"
if defined PYTHON goto found
python --version >nul 2>nul
if not errorlevel 1 set "PYTHON=python"
if defined PYTHON goto found
echo Python was not found.
echo Install Python 3.11 or newer from https://www.python.org/downloads/
echo and tick "Add python.exe to PATH" in its first window. Then start this again.
exit /b 1

:found
%PYTHON% scripts\environment.py
if errorlevel 1 exit /b 1
if exist .venv\Scripts\activate.bat goto activate
echo The environment .venv has no Scripts\activate.bat. Delete the folder .venv and start this again.
exit /b 1

:activate
call .venv\Scripts\activate.bat
if errorlevel 1 exit /b 1
if not exist .env echo There is no file .env, so every setting has its default. .env.example lists them all.
exit /b 0
